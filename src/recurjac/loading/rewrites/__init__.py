"""Exact rewrites of foreign operations into affine operations and activations; one a file."""
