"""Genomes: dense rows with their variation operators, lineages with their mutations."""
