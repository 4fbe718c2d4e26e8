"""Settings of the tables `[run]` and `[compute]` of an experiment file: when a run ends, and how it computes."""

from typing import Annotated, Literal

from pydantic import Field

from qdrl.settings.base import SettingsModel


class RunSettings(SettingsModel):
    """Budgets and intervals of a run. It ends with the generation that reaches any of its budgets."""

    generations: Annotated[int, Field(ge=1)] | None = None
    """Budget of generations."""
    evaluations: Annotated[int, Field(ge=1)] | None = None
    """Budget of evaluations."""
    env_steps: Annotated[int, Field(ge=1)] | None = None
    """Budget of control steps in all worlds, those of episodes that only train a critic included."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Budget of frames of a game, of which a control step takes several."""
    target_fitness: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Fitness that ends the run once an evaluation reaches it. It does not replace a budget."""
    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Budget of wall-clock minutes of the whole run, over all its jobs. The last generation then depends on the
    machine."""
    job_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Limit of wall-clock minutes of one job, since it started or resumed the run. A job that reaches it saves and
    exits with code 75; `qdrl resume` continues the run."""
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Largest share of failed evaluations in a generation; a larger one ends the run with exit code 1. A generation in
    which all evaluations failed always does. Generations that only evaluate a critic's actor are exempt."""
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Shortest time between the starts of two checkpoints, in seconds; 0 for a checkpoint after every generation."""
    checkpoint_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Largest share of the run's time that checkpoints may take. Checkpoints that take long to write become rarer.
    Results do not depend on it."""
    log_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Seconds between progress lines."""
    test_episodes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Episodes over which the champion is evaluated after the last generation, with seeds that no training evaluation
    used; 0 for no such test. They count in no budget."""
    folder: str = "runs"
    """Folder in which run folders are made."""


class ComputeSettings(SettingsModel):
    """How each rank computes. Only `device` changes results."""

    worlds: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """Number of worlds that a rank simulates at once."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Number of threads that step a rank's worlds on the CPU."""
    device: Literal["cpu", "cuda", "warp-cpu"] = "cpu"
    """Device of the physics of locomotion tasks: "cpu" (C MuJoCo, bit-identical to Gymnasium), "cuda" (MuJoCo Warp in
    float32; rank r of a node takes GPU r modulo their number) or "warp-cpu" (MuJoCo Warp on the CPU, slow)."""
    episode_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Limit of wall-clock seconds of an episode of a `gym:` task, descriptor function included. A longer episode is a
    failed evaluation, and its environment is replaced. No limit when left out."""
    isolate: bool = False
    """Run environments and descriptor functions of `gym:` tasks in worker processes, one a world, so that a crash or a
    hang is a failed evaluation."""
