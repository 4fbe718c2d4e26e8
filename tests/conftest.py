"""Settings of all tests: one thread per library before torch is loaded, and reproducible hypothesis examples."""

import pytest
from hypothesis import settings

from qdrl.parallel.launcher import limit_threads

limit_threads()
settings.register_profile("qdrl", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("qdrl")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
