"""Notify a person or a program when a finding appears or clears: which, when, and by what."""
