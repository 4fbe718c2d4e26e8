"""Work on a GPU that is launched as a whole.

Launching a kernel takes the host some microseconds, which is longer than a small kernel runs. A CUDA graph launches
hundreds of them at once.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

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
        capture: makes a graph of the work and gives what launches it; torch's way where left out.
    """

    def __init__(
        self,
        work: Callable[[], object],
        device: torch.device,
        capture: Callable[[], Callable[[], object]] | None = None,
    ) -> None:
        self._work, self._on_gpu = work, device.type == "cuda"
        self._capture = capture or partial(_captured, work, device)
        self._launch: Callable[[], object] | None = None
        self._is_warm = False

    def __call__(self) -> None:
        if self._launch is None and not (self._on_gpu and self._is_warm):
            self._work()
            self._is_warm = True
            return
        if self._launch is None:
            with _without_garbage():
                self._launch = self._capture()
        self._launch()


class Aside:
    """Work that a GPU may do while it does what comes next, `with aside: ...`, until `aside.join()`.

    Small kernels leave most of a GPU idle, and in a graph each waits for the one before unless it is told not to. What
    is done aside and what is done meanwhile must not touch what the other writes. Elsewhere it is done at once.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._inside, self._is_out = ExitStack(), False

    def __enter__(self) -> None:
        self._is_out = True
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            self._inside.enter_context(torch.cuda.stream(self._stream))

    def __exit__(self, *_: object) -> None:
        self._inside.close()

    def join(self) -> None:
        """What comes next waits for it, if there is anything; a capture must not wait for a stream outside of it."""
        is_out, self._is_out = self._is_out, False
        if is_out and self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


def _captured(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        work()
    _FOR_EVER.append(graph)
    return graph.replay


@contextmanager
def _without_garbage() -> Iterator[None]:
    """Nothing is collected meanwhile: what a collected object gives back to the device would disturb a capture."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
