"""Tests inside one process, with Django."""
