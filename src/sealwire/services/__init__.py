"""The services; each meets the others only through contracts."""
