"""The crypto service."""
