"""Which device a process computes on, and whether what it wants fits there."""

import os

import torch

from qdrl.errors import UserError
from qdrl.parallel.ranks import local_rank, local_size


def device_of(name: str) -> torch.device:
    """The device that `compute.device` stands for in this process: of a node's GPUs each rank takes the next.

    A GPU becomes torch's current one: events and streams that name none are then its own.

    Args:
        name: "cuda" or "warp-cpu".

    Raises:
        UserError: there is no GPU.
    """
    if name == "warp-cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("compute.device: torch finds no GPU here; see `qdrl doctor`")
    device = torch.device("cuda", local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def check_memory(worlds: int, bytes_each: int, device: torch.device) -> None:
    """Compare what so many worlds take with `free_memory` of their device.

    Raises:
        UserError: it is too much; the line names how many fit.
    """
    free = free_memory(device)
    if worlds * bytes_each > free:
        raise UserError(
            f"compute.worlds: {worlds} worlds take {worlds * bytes_each / 1e9:.3g} GB of {device}, of which"
            f" {free / 1e9:.3g} GB are free for this rank: at most {free // bytes_each}"
        )


def check_archive(cells: int, parameters: int, device: torch.device) -> None:
    """Compare the genomes of a full archive with `free_memory` of their device.

    Raises:
        UserError: they are too many.
    """
    needed, free = 4 * cells * parameters, free_memory(device)
    if needed > free:
        raise UserError(
            f"archive.cells and policy.hidden_sizes: {cells} cells of {parameters} parameters need"
            f" {needed / 2**30:.1f} GiB a rank, {device} has {free / 2**30:.1f} GiB"
        )


def free_memory(device: torch.device) -> int:
    """This rank's share of the bytes of a device that nobody has taken, and what torch holds back for it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # what Warp has freed comes back then
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] // _processes_on(device) + held
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _processes_on(device)


def _processes_on(device: torch.device) -> int:
    """How many ranks of this node share the device, at most."""
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    return -(-local_size() // devices)
