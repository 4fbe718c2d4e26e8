"""Locomotion tasks on MuJoCo: robots, settings and worlds."""
