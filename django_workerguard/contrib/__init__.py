"""Adapters to other packages, one each, imported by who uses them."""
