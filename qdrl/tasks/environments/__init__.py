"""Users' environments and descriptor functions: one episode, run in this thread, in a watched one, or in a process."""
