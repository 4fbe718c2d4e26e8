"""Policies: what a genome means. A whole population's networks at once, and the observation normaliser."""
