"""The only modules of this family that speak to an engine."""
