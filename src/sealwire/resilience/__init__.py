"""How a call survives a slow or failing dependency."""
