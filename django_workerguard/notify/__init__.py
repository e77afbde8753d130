"""Notices to a person or a program when a finding appears or clears."""
