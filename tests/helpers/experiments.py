"""Experiments that several tests run."""

_DCRL = """
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
"""
DCRL_HOPPER = f"""
name = "critics"
seed = 4
[task]
name = "hopper_uni"
episode_length = 30
[policy]
hidden_sizes = [8, 8]
normalize_observations = true
{_DCRL}
[compute]
worlds = 8
"""
DCRL_POINT = f"""
name = "dcrl"
seed = 4
[task]
name = "point_omni"
episode_length = 20
[policy]
hidden_sizes = [8]
{_DCRL}
"""
