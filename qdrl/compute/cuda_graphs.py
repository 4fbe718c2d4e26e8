"""CUDA graphs: launch a fixed sequence of GPU kernels with one call.

Launching a kernel takes the host several microseconds, which is longer than a small kernel runs. A CUDA graph launches
hundreds of kernels at once.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch

# Graphs that torch captures on one stream share cuBLAS's workspace. Destroying the first of them frees that workspace
# while the others still use it (pytorch issue 193402), so graphs are kept until the process ends.
_captured_graphs: list[torch.cuda.CUDAGraph] = []


class GraphedCall:
    """A function without arguments that runs as a CUDA graph from its second call on.

    The first call runs the function directly, so that libraries load and kernels compile; the second call captures it.
    The function must do the same work at each call, on tensors that keep their memory, and must not read a value back
    from the device. On other devices every call runs the function directly.

    Args:
        work: the function.
        device: where it runs.
        capture: captures `work` and returns a function that launches the graph; torch's capture by default.
    """

    def __init__(
        self,
        work: Callable[[], object],
        device: torch.device,
        capture: Callable[[], Callable[[], object]] | None = None,
    ) -> None:
        self._work, self._on_gpu = work, device.type == "cuda"
        self._capture = capture or partial(_capture_graph, work, device)
        self._launch: Callable[[], object] | None = None
        self._is_warm = False

    def __call__(self) -> None:
        """Run the function, or launch its graph."""
        if self._launch is None and not (self._on_gpu and self._is_warm):
            self._work()
            self._is_warm = True
            return
        if self._launch is None:
            with _garbage_collection_disabled():
                self._launch = self._capture()
        self._launch()


class SideStream:
    """A second stream: work inside `with side_stream: ...` overlaps with what follows, until `side_stream.join()`.

    Small kernels leave most of a GPU idle, and kernels of one stream run one after the other. Work on the side stream
    and work issued before `join` must not touch memory that the other writes. On other devices nothing overlaps.

    Args:
        device: the device of both streams.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._context, self._is_pending = ExitStack(), False

    def __enter__(self) -> None:
        self._is_pending = True
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            self._context.enter_context(torch.cuda.stream(self._stream))

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def join(self) -> None:
        """Make the current stream wait for the side stream; do nothing when no work is pending.

        A capture must not wait for a stream that is not part of it.
        """
        is_pending, self._is_pending = self._is_pending, False
        if is_pending and self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


def _capture_graph(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        work()
    _captured_graphs.append(graph)
    return graph.replay


@contextmanager
def _garbage_collection_disabled() -> Iterator[None]:
    """Collect garbage now and not during the capture: freeing device memory would invalidate the capture."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
