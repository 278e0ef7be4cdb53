"""What every room uses and no service owns."""
