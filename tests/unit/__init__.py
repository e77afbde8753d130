"""Tests of pure code, without Django or processes."""
