"""Provenance of a result: software versions, commit, processor and source code of users."""
