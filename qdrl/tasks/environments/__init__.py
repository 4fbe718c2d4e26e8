"""Users' environments and descriptor functions, run in the caller's thread, a second thread or a worker process."""
