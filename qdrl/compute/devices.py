"""The device of a process, and checks that large allocations fit into its memory."""

import os

import torch

from qdrl.errors import UserError
from qdrl.parallel.launcher import local_rank, local_size


def device_of(name: str) -> torch.device:
    """Return this process's device for a value of `compute.device`.

    The GPUs of a node are assigned to its ranks in turn. The GPU also becomes torch's current device, so that events
    and streams created without a device belong to it.

    Args:
        name: "cuda" or "warp-cpu".

    Raises:
        UserError: torch finds no GPU.
    """
    if name == "warp-cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("compute.device: torch finds no GPU here; see `qdrl doctor`")
    device = torch.device("cuda", local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def check_memory(worlds: int, bytes_each: int, device: torch.device) -> None:
    """Check that a number of worlds fits into the `free_memory` of a device.

    Args:
        worlds: number of worlds.
        bytes_each: bytes of one world.
        device: where they would be allocated.

    Raises:
        UserError: they do not fit; the message says how many do.
    """
    free = free_memory(device)
    if worlds * bytes_each > free:
        raise UserError(
            f"compute.worlds: {worlds} worlds take {worlds * bytes_each / 1e9:.3g} GB of {device}, of which"
            f" {free / 1e9:.3g} GB are free for this rank: at most {free // bytes_each}"
        )


def check_archive(cells: int, parameters: int, device: torch.device) -> None:
    """Check that the genomes of a full archive fit into the `free_memory` of a device.

    Args:
        cells: cells of the archive.
        parameters: float32 numbers of a genome.
        device: where they would be allocated.

    Raises:
        UserError: they do not fit.
    """
    needed, free = 4 * cells * parameters, free_memory(device)
    if needed > free:
        raise UserError(
            f"archive.cells and policy.hidden_sizes: {cells} cells of {parameters} parameters need"
            f" {needed / 2**30:.1f} GiB a rank, {device} has {free / 2**30:.1f} GiB"
        )


def free_memory(device: torch.device) -> int:
    """Return the bytes of free device memory available to this rank, torch's cached blocks included.

    Ranks that share a device share its free memory equally.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # Warp's freed memory returns to the device here
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] // _ranks_per_device(device) + cached
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _ranks_per_device(device)


def _ranks_per_device(device: torch.device) -> int:
    """Return the largest number of ranks of this node that share the device."""
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    return -(-local_size() // devices)
