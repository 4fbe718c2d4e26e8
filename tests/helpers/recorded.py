"""CUDA graphs simulated on the CPU: torch's calls are recorded in a capture and repeated on the same tensors.

As in a graph, only calls of torch are repeated: numbers computed by Python keep their values of the capture, Python
names keep their bindings, and calls of numpy are not repeated.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qdrl.compute import arrays
from qdrl.compute import cuda_graphs as graphs
from qdrl.compute import random as draws
from qdrl.critics import td3, variation
from qdrl.tasks.episodes import device_episodes

_SYNCHRONISING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2"}


class _Recording(TorchDispatchMode):
    """Record the calls that create or change a tensor, as functions that repeat them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        masks = name.startswith("index") and any(leaf.dtype == torch.bool for leaf in _tensors(args[1:2]))
        if masks or name in _SYNCHRONISING:
            raise RuntimeError(f"a capture synchronises with its device: {function}")
        result = function(*args, **kwargs)
        aliases = [argument.alias_info for argument in function._schema.arguments]
        if any(alias is not None and alias.is_write for alias in aliases):
            self.calls.append(lambda: function(*args, **kwargs))
        elif all(returned.alias_info is None for returned in function._schema.returns):  # others are views
            self.calls.append(lambda: _again(function, args, kwargs, result))
        return result


def _again(function: Any, args: Sequence[Any], kwargs: Any, made: Any) -> None:
    """Repeat a call and write its results to the tensors of the capture."""
    for old, new in zip(_tensors(made), _tensors(function(*args, **kwargs)), strict=True):
        old.copy_(new)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _recorded(work: Callable[[], object]) -> Callable[[], object]:
    """Run and record some work; a graph would run it at its first launch instead."""
    recording = _Recording()
    with recording:
        work()
    launches = 0

    def launch() -> None:
        nonlocal launches
        launches += 1
        if launches > 1:
            for call in recording.calls:
                call()

    return launch


class RecordedCall(graphs.GraphedCall):
    """`GraphedCall` as on a GPU, with recordings in place of torch's graphs; Warp's work runs directly."""

    captures = 0

    def __init__(self, work: Callable[[], object], device: torch.device, capture: Any = None) -> None:
        super().__init__(work, device, self._record)
        self._on_gpu = capture is None

    def _record(self) -> Callable[[], object]:
        type(self).captures += 1
        return _recorded(self._work)


class _Uses(TorchDispatchMode):
    """Record which memory torch's calls read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()
        self.written: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = function._schema.arguments
        given = dict(zip([argument.name for argument in schema], args, strict=False)) | kwargs
        for argument in schema:
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            places = {tensor.untyped_storage().data_ptr() for tensor in _tensors(given.get(argument.name))}
            (self.written if is_written else self.read).update(places)
        return function(*args, **kwargs)


class WatchedSideStream:
    """`SideStream` that asserts that neither stream touches memory that the other writes."""

    joins = 0

    def __init__(self, _: torch.device) -> None:
        self._side: _Uses | None = None
        self._meanwhile = _Uses()

    def __enter__(self) -> None:
        assert self._side is None, "the side stream was not joined"
        self._side = _Uses()
        self._side.__enter__()

    def __exit__(self, *error: Any) -> None:
        assert self._side is not None
        self._side.__exit__(*error)
        self._meanwhile = _Uses()
        self._meanwhile.__enter__()

    def join(self) -> None:
        if self._side is None:
            return
        self._meanwhile.__exit__(None, None, None)
        side, meanwhile = self._side, self._meanwhile
        self._side = None
        assert side.written.isdisjoint(meanwhile.read | meanwhile.written)
        assert side.read.isdisjoint(meanwhile.written)
        type(self).joins += bool(side.written and meanwhile.written)


def record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the CUDA graphs of torch by recordings."""
    for module in (td3, variation, device_episodes):
        monkeypatch.setattr(module, "GraphedCall", RecordedCall)
    monkeypatch.setattr(RecordedCall, "captures", 0)


def without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use torch where the CPU uses numpy, and draw random numbers as a GPU does."""
    monkeypatch.setattr(arrays, "_shares_numpy", lambda _: False)
    monkeypatch.setattr(draws, "_draws_on_device", lambda _: True)
