"""Readers of foreign operations that become no operator class of their own; one group a file."""
