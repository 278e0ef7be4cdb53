"""Drivers: what speaks an engine's own protocol."""
