"""The one application of the guinea project."""
