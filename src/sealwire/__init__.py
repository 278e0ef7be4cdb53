"""Sealwire: a self-hosted, multi-tenant, secure messaging backend."""
