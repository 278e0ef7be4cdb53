"""Where ports meet engines."""
