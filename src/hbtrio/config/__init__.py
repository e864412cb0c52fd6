"""Reads configuration files strictly and reports every fault with its place."""
