"""Readers of foreign operations that have no operator class of their own; one file for each group."""
