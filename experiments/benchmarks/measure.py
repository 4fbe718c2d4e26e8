"""Timing ours beside a peer: alternating repeats in one process, medians, and lines of `name value unit`."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


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
    print(f"{name} {value:.4g} {unit}", flush=True)


def take_turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return each side's own measurements, one number a repeat.

    Sides take turns inside every repeat, so that their numbers of one repeat stand beside each other in time and a
    machine that drifts changes their ratio little; every second repeat goes through them backwards.

    Args:
        sides: each measures once and returns its number; warming up is theirs.
        repeats: how often.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in reversed(found) if repeat % 2 else found:
            gc.collect()
            found[name].append(sides[name]())
    return found


def median_ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Median over the repeats of the ratio inside each."""
    return statistics.median(mine / other for mine, other in zip(ours, peer, strict=True))
