"""Tests that run a real server with real processes and signals."""
