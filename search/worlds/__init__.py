"""Worlds to search in without training: simulated ones."""
