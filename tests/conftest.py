"""What every test shares: one thread a library before torch is loaded, and examples that never flicker."""

from hypothesis import settings

from qdrl.ranks import limit_threads

limit_threads()
settings.register_profile("qdrl", deadline=None, derandomize=True, database=None)
settings.load_profile("qdrl")
