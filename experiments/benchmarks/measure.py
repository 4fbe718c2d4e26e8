"""Time qdrl and a peer: alternating repeats in one process, medians, and lines of `name value unit`."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[int], Callable[[], object]],
    peer: Callable[[int], Callable[[], object]],
    repeats: int = 21,
) -> tuple[float, float]:
    """Return the median seconds of ours and of the peer.

    Both are timed in every repeat, so that other load on the machine affects both. The order alternates, so that
    neither always finds the caches left by the other. One repeat warms up and is not counted. The garbage collector is
    disabled during the measurement.

    Args:
        ours: called with the number of the repeat; prepares (not timed) and returns the work to be timed.
        peer: the same for the peer.
        repeats: number of counted repeats.
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
    """Print the seconds of both and their ratio, which is above 1 if ours is faster."""
    line(f"{name}.{what}_seconds", ours_seconds, "s")
    line(f"{name}.{peer_name}_{what}_seconds", peer_seconds, "s")
    line(f"{name}.times_{peer_name}_{what}", peer_seconds / ours_seconds, "x")


def line(name: str, value: float, unit: str) -> None:
    """Print one result."""
    print(f"{name} {value:.4g} {unit}", flush=True)


def take_turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Return the measurements of each side, one number per repeat.

    Every repeat measures all sides, so that a slow drift of the machine's speed hardly changes their ratio. Every
    second repeat reverses their order.

    Args:
        sides: each measures once and returns the result; warming up is left to them.
        repeats: number of repeats.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in reversed(found) if repeat % 2 else found:
            gc.collect()
            found[name].append(sides[name]())
    return found


def median_ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Return the median over the repeats of the ratio within each repeat."""
    return statistics.median(mine / other for mine, other in zip(ours, peer, strict=True))
