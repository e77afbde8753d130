"""What the guard was told: options, their units, and where each value came from. Runs anywhere."""
