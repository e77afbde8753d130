"""Configuration: the options, their units, and the source of each value. Runs anywhere."""
