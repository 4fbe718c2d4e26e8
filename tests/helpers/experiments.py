"""Experiments that several tests run."""

DCRL_HOPPER = """
name = "critics"
seed = 4
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = [8, 8]
normalize_observations = true
[archive]
cells = 32
samples = 2000
[algorithm]
name = "dcrl_map_elites"
batch_size = 12
gradient_rows = 3
actor_rows = 3
replay_capacity = 700
critic = { steps = 20, batch_size = 16, hidden_sizes = [16, 16] }
gradient = { steps = 5, batch_size = 16 }
[run]
generations = 6
checkpoint_seconds = 0
[compute]
worlds = 8
"""
