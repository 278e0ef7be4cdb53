"""Hardware security modules: key providers whose key-encryption key never leaves its token."""
