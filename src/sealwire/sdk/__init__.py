"""What an outside Python program imports."""
