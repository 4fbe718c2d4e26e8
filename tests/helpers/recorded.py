"""A CUDA graph's stand-in on the CPU: torch's calls are noted in a capture, and done again on the same tensors.

What a graph does not do again is not done again here either: numbers that Python worked out stay those of the capture,
Python's names keep what they were bound to, and calls into numpy are gone.
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

_ASKING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2"}


class _Recording(TorchDispatchMode):
    """Notes calls that make or change a tensor, as what does them again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        masks = name.startswith("index") and any(leaf.dtype == torch.bool for leaf in _tensors(args[1:2]))
        if masks or name in _ASKING:
            raise RuntimeError(f"a capture that waits for its device: {function}")
        result = function(*args, **kwargs)
        aliases = [argument.alias_info for argument in function._schema.arguments]
        if any(alias is not None and alias.is_write for alias in aliases):
            self.calls.append(lambda: function(*args, **kwargs))
        elif all(returned.alias_info is None for returned in function._schema.returns):  # others are views
            self.calls.append(lambda: _again(function, args, kwargs, result))
        return result


def _again(function: Any, args: Sequence[Any], kwargs: Any, made: Any) -> None:
    """The same call, its results where those of the capture are."""
    for old, new in zip(_tensors(made), _tensors(function(*args, **kwargs)), strict=True):
        old.copy_(new)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _recorded(work: Callable[[], object]) -> Callable[[], object]:
    """In place of torch's capture. The work is done meanwhile, which a graph does at its first launch."""
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


class RecordedWork(graphs.Replayed):
    """`Replayed` as on a GPU, with recordings for torch's graphs; Warp's work is done as it is."""

    captures = 0

    def __init__(self, work: Callable[[], object], device: torch.device, capture: Any = None) -> None:
        super().__init__(work, device, self._record)
        self._on_gpu = capture is None

    def _record(self) -> Callable[[], object]:
        type(self).captures += 1
        return _recorded(self._work)


class _Uses(TorchDispatchMode):
    """Which memory calls read and write."""

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


class WatchedAside:
    """`Aside`, which sees to it that neither side touches what the other writes."""

    joins = 0

    def __init__(self, _: torch.device) -> None:
        self._aside: _Uses | None = None
        self._meanwhile = _Uses()

    def __enter__(self) -> None:
        assert self._aside is None, "what was done aside was not waited for"
        self._aside = _Uses()
        self._aside.__enter__()

    def __exit__(self, *error: Any) -> None:
        assert self._aside is not None
        self._aside.__exit__(*error)
        self._meanwhile = _Uses()
        self._meanwhile.__enter__()

    def join(self) -> None:
        if self._aside is None:
            return
        self._meanwhile.__exit__(None, None, None)
        aside, meanwhile = self._aside, self._meanwhile
        self._aside = None
        assert aside.written.isdisjoint(meanwhile.read | meanwhile.written)
        assert aside.read.isdisjoint(meanwhile.written)
        type(self).joins += bool(aside.written and meanwhile.written)


def record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that torch does in graphs on a GPU done in recordings."""
    for module in (td3, variation, device_episodes):
        monkeypatch.setattr(module, "Replayed", RecordedWork)
    monkeypatch.setattr(RecordedWork, "captures", 0)


def without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch do what numpy does on the CPU, chance by the million too, as on a GPU."""
    monkeypatch.setattr(arrays, "_shares_numpy", lambda _: False)
    monkeypatch.setattr(draws, "_draws_itself", lambda _: True)
