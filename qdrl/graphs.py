"""Work on a GPU that is launched as a whole.

Launching a kernel takes the host some microseconds, which is longer than a small kernel runs. A CUDA graph launches
hundreds of them at once.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Graphs captured on one stream, as torch does, share cuBLAS's workspace, and the first that is destroyed takes it away
# from the others (pytorch issue 193402): none is.
_FOR_EVER: list[torch.cuda.CUDAGraph] = []


class Replayed:
    """Work without arguments that is done again and again: on a GPU a CUDA graph from the second time on.

    The first time it runs as it is, so that libraries load and kernels compile; the second time it is captured. It must
    do the same each time to tensors that stay where they are, without asking the device for an answer. Elsewhere it
    always runs as it is.

    Args:
        work: what is done.
        device: where.
    """

    def __init__(self, work: Callable[[], object], device: torch.device) -> None:
        self._work, self._device = work, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_warm = False

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif self._device.type != "cuda":
            self._work()
        elif not self._is_warm:
            self._work()
            self._is_warm = True
        else:
            self._graph = self._captured()
            self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with without_garbage(), torch.cuda.device(self._device), torch.cuda.graph(graph):
            self._work()
        _FOR_EVER.append(graph)
        return graph


@contextmanager
def without_garbage() -> Iterator[None]:
    """Nothing is collected meanwhile: what a collected object gives back to the device would disturb a capture."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
