"""Algorithms, one module per method; `qdrl.algorithms.registry` finds a class by name."""
