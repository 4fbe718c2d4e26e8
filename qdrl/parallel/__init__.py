"""Parallel runs: MPI ranks, the learner group, and how a job starts."""
