"""Algorithms: one paper, one file; `qdrl.algorithms.registry` finds one by name."""
