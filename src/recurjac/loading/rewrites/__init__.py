"""Exact rewrites of foreign operations into affine operations and activations; one file for each."""
