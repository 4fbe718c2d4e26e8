"""Timing ours beside a peer: alternating repeats in one process, medians, and lines of `name value unit`."""

import gc
import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[int], Callable[[], object]],
    peer: Callable[[int], Callable[[], object]],
    repeats: int = 21,
) -> tuple[float, float]:
    """Median seconds of ours and of the peer.

    Both take turns, so that a noisy neighbour hits both, and swap who goes first, so that neither always finds the
    caches that the other left. One repeat before the counted ones warms up. The garbage collector is off meanwhile.

    Args:
        ours: called with the repeat's number, prepares (not timed) and returns the work to be timed.
        peer: the same for the peer.
        repeats: how often each is timed.
    """
    times: dict[Callable[[int], Callable[[], object]], list[float]] = {ours: [], peer: []}
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats + 1):
            for side in (ours, peer) if repeat % 2 else (peer, ours):
                times[side].append(seconds(side(repeat)))
    finally:
        gc.enable()
    return statistics.median(times[ours][1:]), statistics.median(times[peer][1:])


def compare(name: str, peer_name: str, what: str, ours_seconds: float, peer_seconds: float) -> None:
    """Print seconds of both and the ratio, which is above 1 where ours is faster."""
    line(f"{name}.{what}_seconds", ours_seconds, "s")
    line(f"{name}.{peer_name}_{what}_seconds", peer_seconds, "s")
    line(f"{name}.times_{peer_name}_{what}", peer_seconds / ours_seconds, "x")


def line(name: str, value: float, unit: str) -> None:
    """Print one result."""
    print(f"{name} {value:.4g} {unit}", flush=True)  # noqa: T201
