"""Bounds of random networks against exact truth, without any tolerance; `python -m tests.truth` judges thousands."""
