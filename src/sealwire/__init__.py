"""Sealwire: a self-hosted, multi-tenant, secure messaging backend."""

__version__ = "0.1.0"
