"""A simulated GPU: tensors that report another device, store real data and reject the same calls as CUDA tensors.

`python -m tests.helpers.pretended_gpu <config> <folder>` starts an experiment on it, stops and resumes it. The reported
device is torch's `meta` device, which every build of torch has; MuJoCo Warp runs on its CPU device. Since the data is
real, whole runs work, and a call that mixes devices is found anywhere in a run. Streams and graphs are not simulated.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

import qdrl.run.build
from qdrl.config import load_experiment
from qdrl.parallel.ranks import connect
from qdrl.physics import gpu
from qdrl.run.resume import resume
from qdrl.run.start import start
from qdrl.tasks.locomotion import device_worlds as device_locomotion

PLACE = torch.device("meta")
COPIES = {"copy_", "_to_copy"}
INDEXED = {"index", "index_put_", "_index_put_impl_"}
STRICT = {"index_copy_", "index_select", "index_add_", "gather", "bmm", "baddbmm", "addmm", "mm", "cat", "stack"}
"""Calls that reject even 0-dimensional tensors of the host, which most others accept."""


class OnDevice(Tensor):
    """A tensor of the simulated device; `numbers` holds its data, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls: type["OnDevice"], numbers: Tensor) -> "OnDevice":
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=PLACE,
        )
        made.numbers = numbers
        return made

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor.__getitem__(self, _index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        Tensor.__setitem__(self, _index(index), value)

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor of a device has no numpy array")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})


class Everywhere(TorchDispatchMode):
    """Intercept all calls, including those that create tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})


def call(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run a call on the data, and return tensors of the device that CUDA would choose."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    refuse_mixes(func, args, given)
    known = {id(leaf.numbers): leaf for leaf in given if isinstance(leaf, OnDevice)}
    to, name = kwargs.get("device"), func.overloadpacket.__name__
    if to is None:  # a copy stays on the device of its target, other results on the device if any argument is
        is_there = isinstance(args[0], OnDevice) if name in COPIES else bool(known)
    else:
        is_there = torch.device(to) == PLACE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    with _disable_current_modes():
        found = func(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) in known:
            return known.get(id(value), value)
        return OnDevice(value) if is_there else value

    return tree_map(placed, found)


def refuse_mixes(func: Any, args: Sequence[Any], given: Sequence[Tensor]) -> None:
    """Raise if a call mixes devices; like CUDA, allow 0-dimensional host tensors and host indices in `[]`."""
    name = func.overloadpacket.__name__
    there = [leaf for leaf in given if isinstance(leaf, OnDevice)]
    here = [leaf for leaf in given if not isinstance(leaf, OnDevice)]
    if name in INDEXED and isinstance(args[0], OnDevice):
        indices = {id(leaf) for leaf in tree_leaves(args[1])}
        here = [leaf for leaf in here if id(leaf) not in indices]
    if there and here and name not in COPIES and (name in STRICT or any(leaf.dim() for leaf in here)):
        raise RuntimeError(f"{func} of tensors on a device and on the host")


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, OnDevice) else value


def _index(index: Any) -> Any:
    """Convert lists to host tensors: torch would create them on the meta device, where their values are lost."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.tensor(index, dtype=torch.int64) if isinstance(index, list) else index


def _through_host(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(values: Any, *arguments: Any, device: Any = None, **options: Any) -> Tensor:
        if isinstance(values, OnDevice):
            return values if make is torch.as_tensor and not options else values.clone()
        host = make(values, *arguments, **options)
        return host if device is None else host.to(device)

    return made


class _Warp:
    """Warp with its CPU device in place of the simulated device."""

    def __init__(self, warp: Any) -> None:
        self._warp = warp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._warp, name)

    def device_from_torch(self, _: torch.device) -> Any:
        return self._warp.get_device("cpu")

    def to_torch(self, array: Any) -> Tensor:
        return OnDevice(self._warp.to_torch(array))


def pretend() -> None:
    """Make this process use the simulated GPU."""
    libraries = gpu._libraries
    warp, mujoco_warp = libraries()

    def run(worlds: Any, work: Callable[[], None]) -> None:
        with warp.ScopedDevice("cpu"), _disable_current_modes():
            work()

    gpu._libraries = lambda: (_Warp(warp), mujoco_warp)
    setattr(gpu.WarpWorlds, "_run", run)  # noqa: B010 - other names than its own
    torch.tensor, torch.as_tensor = _through_host(torch.tensor), _through_host(torch.as_tensor)
    torch.cuda.is_available = lambda: True
    qdrl.run.build.device_of = device_locomotion.device_of = lambda _: PLACE


def main() -> None:
    config, folder = map(Path, sys.argv[1:])
    pretend()
    ranks = connect()
    with Everywhere():
        start(load_experiment(config), ranks, folder=folder, progress=False)
        resume(folder, ranks, overrides=["run.generations=4"], progress=False)


if __name__ == "__main__":
    main()
