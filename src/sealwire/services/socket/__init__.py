"""The socket service."""
