"""The compliance service."""
