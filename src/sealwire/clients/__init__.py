"""The contracts spoken over HTTP, and the guards every client goes through."""
