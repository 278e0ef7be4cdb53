"""Backends, wirings, clocks and faults for tests."""
