"""Promises of storage that two or more services need."""
