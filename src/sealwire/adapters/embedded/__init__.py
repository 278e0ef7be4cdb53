"""Storage on this machine, nothing to install."""
