"""The sealwire command."""
