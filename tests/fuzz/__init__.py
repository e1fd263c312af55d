"""Bounds of random networks of all kinds of layers against sampled truth; `python -m tests.fuzz` runs thousands."""
