"""Policies: networks of a whole population at once, and the observation normaliser."""
