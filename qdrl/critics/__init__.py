"""Critics: replay buffer, TD3 with or without descriptors, policy-gradient variation and actor injection."""
