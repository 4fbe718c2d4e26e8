"""Critics: replay, TD3 with or without descriptors, and the variation and injection that they make possible."""
