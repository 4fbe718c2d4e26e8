"""A run: its folder, recorder, checkpoints and estimates."""
