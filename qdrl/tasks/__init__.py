"""Tasks evaluate genomes; `qdrl.tasks.registry` makes one by name."""
