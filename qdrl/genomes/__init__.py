"""Genomes: dense rows and how they vary, lineages and how they become rows."""
