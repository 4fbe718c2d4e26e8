"""The largest numbers that an evaluation may give."""

MAGNITUDE = 1e30
"""Largest magnitude of fitness, descriptors and rewards: float32 holds it, and sums over an archive stay finite."""
