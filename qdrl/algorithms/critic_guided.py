"""What MAP-Elites with policy-gradient variation has in common: who proposes which row, and what learners are given.

A generation's rows are dealt out to emitters in turns, so that every rank's block of rows holds its share of the
costly ones:

- `variation`: children of elites, as in MAP-Elites;
- `gradient`: copies of elites after some steps up the critic's gradient;
- `actor`: the actor that was trained with the critic, as a genome of its own;
- `probe`: the same, evaluated only to learn from it; it never enters the archive.

`pga_map_elites`, `dcg_map_elites` and `dcrl_map_elites` say how many rows each gets and what critics know of
descriptors. After a generation the learners put all transitions into their replay, train critics and actor, and tell
the other ranks what they need to propose: parameters, and the minibatches of observations for the next gradients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from qdrl.algorithms.dealing import Plan, deal
from qdrl.algorithms.map_elites import MapElites, MapElitesSettings
from qdrl.archives.base import AnyArchive
from qdrl.archives.batches import copy_rows
from qdrl.critics.descriptors import normalize
from qdrl.critics.injection import inject
from qdrl.critics.labelling import concatenate, drop_nonfinite, label
from qdrl.critics.learner import Learner
from qdrl.critics.replay_buffer import LabelledTransitions
from qdrl.critics.settings import LearningSettings
from qdrl.critics.variation import PolicyGradient
from qdrl.errors import UserError
from qdrl.evaluation import Candidates, Evaluation, Transitions
from qdrl.parallel.exchange import LOCAL, Exchange, TrainingResult
from qdrl.parallel.learners import Learners
from qdrl.policies.mlp import Mlp
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task
from qdrl.tasks.episodic import EpisodicTask

_TOLD = ("critic", "actor", "states")
Rows = Annotated[int, Field(ge=0, le=1_000_000)]


class CriticGuidedSettings(MapElitesSettings, LearningSettings):
    """Settings that the critic-guided algorithms share.

    What is learned, and by how many ranks, is `qdrl.critics.settings.LearningSettings`.
    """

    gradient_rows: Rows = 64
    """Rows of `batch_size` that policy-gradient variation proposes."""
    actor_rows: Rows = 64
    """Rows of `batch_size` that are the actor itself and may enter the archive."""
    probe_rows: Rows = 0
    """Rows besides `batch_size` that are the actor itself and only feed the replay."""
    gradient_rows_aim: Literal["parent", "reached"] = "parent"
    """What gradient rows count as having aimed at: "parent", the descriptor of the elite they start from (code of
    Faldor et al. 2024), or "reached", their own, as all children do (Faldor et al. 2023)."""
    artificial_negatives: bool = False
    """Keep the episodes of rows that are not the actor a second time, as if they had aimed at the descriptor of an
    elite drawn for it: the ablation of Faldor et al. 2023, section 5.5."""
    target_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Deviation of the noise on the descriptors that actors aim at, in units of the bounds' span."""
    reward_offset: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    """Added to each reward before it is cut at zero; the task's own when left out. Unconditioned critics take rewards
    as they are unless it is given."""

    @model_validator(mode="after")
    def _fits(self) -> "CriticGuidedSettings":
        if self.gradient_rows + self.actor_rows > self.batch_size:
            raise ValueError(
                f"gradient_rows ({self.gradient_rows}) and actor_rows ({self.actor_rows}) must fit into"
                f" batch_size ({self.batch_size})"
            )
        return self


class CriticGuided(MapElites):
    """See `qdrl.algorithms.base.Algorithm`.

    Args:
        task: a task whose genomes are policies.
        archive: filled by `tell`; critics live on its device.
        streams: the run's random numbers.
        settings: how rows are dealt out, what is learned.

    Raises:
        UserError: the task has no policies, or states no reward offset that a conditioned critic needs.
    """

    settings: CriticGuidedSettings
    emitters: tuple[str, ...] = ("random", "variation", "gradient", "actor", "probe")
    conditioned: ClassVar[bool] = True

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: CriticGuidedSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self._policy = _policy_of(task, settings.name)
        self._offset = self._reward_offset()
        counts = {
            "variation": settings.batch_size - settings.gradient_rows - settings.actor_rows,
            "gradient": settings.gradient_rows,
            "actor": settings.actor_rows,
            "probe": settings.probe_rows,
        }
        self.emitters = ("random", *(name for name, count in counts.items() if count))
        self._dealt = deal(counts, self.emitters)
        self.batch_size = len(self._dealt)
        if settings.learners > self.batch_size:
            raise UserError(
                f"algorithm.learners: {settings.learners} learners, but {self.batch_size} rows a generation"
            )
        self.dimensions = len(task.spec.axes) if self.conditioned else 0
        device = archive.device
        self.learner = Learner(self._policy, self.dimensions, settings, streams, device)
        self._gradient = PolicyGradient(self._policy, self.learner.td3.critic_mlp, settings.gradient, device)
        self._learned: TrainingResult = {}

    def ask(self, rows: range | None = None) -> Candidates:
        return replace(super().ask(rows), wants_transitions=True)

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        self.check_turn(evaluation)
        # Before the archive changes: targets are drawn from it as it was when the rows were proposed.
        learned = exchange.train(evaluation, partial(self._train, evaluation), self.settings.learners)
        probes = self._named(evaluation.emitter, "probe")
        counts = self._insert(evaluation, ~evaluation.failed & ~probes, exchange)
        if _TOLD[0] in learned:
            self._learned = {name: learned.pop(name) for name in _TOLD}
        report = {name: float(value) for name, value in learned.items()}
        return {"actor_evaluations": float(probes.sum()), **counts, **report}

    @property
    def actor(self) -> dict[str, np.ndarray] | None:
        """The trained actor as `StoredArchive.actor` keeps it; None before anything was learned."""
        if not self._learned:
            return None
        return {"genome": self._learned["actor"], "dimensions": np.array(self.dimensions)}

    def collect_state(self) -> None:
        """Collective. Bring the learners' shards of the replay to the first rank, for `state_dict`."""
        self.learner.collect()

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "learner": self.learner.state_dict(self.generation),
            "learned": self._learned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a shape is that of other networks.
        """
        super().load_state_dict(state)
        self.learner.load_state_dict(state["learner"], self.generation)
        learned = {name: np.asarray(state["learned"][name], np.float32) for name in _TOLD if state["learned"]}
        td3, seen = self.learner.td3, self._policy.sizes[0]
        expected = {"critic": tuple(td3.critic[0].shape), "actor": tuple(td3.actor[0].shape)}
        expected["states"] = (*learned["states"].shape[:2], seen) if learned else ()
        for name, array in learned.items():
            if array.shape != expected[name] or array.ndim > 3:
                raise ValueError(f"the learned {name} has shape {array.shape}, expected {expected[name]}")
        self._learned = learned

    def continue_from_elites(self, generation: int) -> None:
        """Propose this generation next, with critics, actor and replay as they are at the beginning of a run."""
        super().load_state_dict({"generation": generation})
        self.learner.begin_at(generation)

    @property
    def _varies(self) -> bool:
        return super()._varies and bool(self._learned)

    def _propose(self, rows: range) -> tuple[Tensor, np.ndarray, np.ndarray]:
        if not self._varies:
            return super()._propose(rows)
        plan, device = self._plan(rows), self.archive.device
        genomes, parents = torch.empty(len(rows), self.task.parameters, device=device), np.full(len(rows), -1)
        for name in self.emitters:
            mine = np.flatnonzero(self._named(plan.emitter, name))
            if len(mine) == 0:
                continue
            if name == "variation":
                made, parents[mine] = self._children([rows[row] for row in mine])
            elif name == "gradient":
                made, parents[mine] = self._climbed(plan.cell[mine], plan.target[mine]), plan.cell[mine]
            else:
                made = self._actors(plan.target[mine])
            copy_rows(made, torch.arange(len(mine)), genomes, torch.from_numpy(mine))
        return genomes, parents, plan.emitter

    def _plan(self, rows: Sequence[int]) -> Plan:
        """Who proposes these rows, from what; the same on whichever rank asks, until the archive changes."""
        spec = self.task.spec
        plan = Plan(self._dealt[list(rows)], np.full(len(rows), -1), np.full((len(rows), len(spec.axes)), np.nan))
        gradient = self._named(plan.emitter, "gradient")
        aims = gradient | self._named(plan.emitter, "actor") | self._named(plan.emitter, "probe")
        noise = np.zeros_like(plan.target)
        for index in np.flatnonzero(aims):
            plan.cell[index], noise[index] = self._aim(Purpose.TARGET, rows[int(index)])
        noise[gradient] = 0.0  # they climb for their parents' own
        plan.target[aims] = self._descriptors_of(plan.cell[aims]) + noise[aims]
        return plan

    def _named(self, emitter: Any, name: str) -> Any:
        """Which of some rows an emitter proposed."""
        return emitter == (self.emitters.index(name) if name in self.emitters else -1)

    def _climbed(self, cells: np.ndarray, targets: np.ndarray) -> Tensor:
        parents, device = self.archive.genomes_of(torch.from_numpy(cells)), self.archive.device
        states, critic = (torch.from_numpy(self._learned[name]).to(device) for name in ("states", "critic"))
        aims = self._seen(torch.from_numpy(targets)).to(device)
        return self._gradient.vary(parents, states, critic, aims)

    def _actors(self, targets: np.ndarray) -> Tensor:
        device = self.archive.device
        actor, aims = torch.from_numpy(self._learned["actor"]).to(device), self._seen(torch.from_numpy(targets))
        return inject(self._policy, actor, aims.to(device))

    def _seen(self, descriptors: Tensor) -> Tensor:
        """Descriptors as the critics see them, `(rows, dimensions)`."""
        return normalize(descriptors, self.archive.geometry.lower, self.archive.geometry.upper)[:, : self.dimensions]

    def _train(self, evaluation: Evaluation, shards: Sequence[Transitions], learners: Learners) -> TrainingResult:
        """Collective over the learners. Label this learner's transitions and train on them."""
        kept = [self._label(drop_nonfinite(transitions), evaluation) for transitions in shards]
        return self.learner.train(self.generation, kept, learners)

    def _label(self, transitions: Transitions, evaluation: Evaluation) -> LabelledTransitions:
        """Transitions as the replay keeps them: rewards shifted, descriptors reached and aimed at beside each."""
        reached = evaluation.descriptor
        if not self._varies:
            return label(transitions, self._offset, self._seen(reached), self._seen(reached))
        plan = self._plan(range(self.batch_size))
        target = torch.from_numpy(plan.target)
        if self.settings.gradient_rows_aim == "reached":
            target[self._named(plan.emitter, "gradient")] = torch.nan
        target = torch.where(target.isnan(), reached, target)
        kept = label(transitions, self._offset, self._seen(reached), self._seen(target))
        if not (self.settings.artificial_negatives and self.dimensions):
            return kept
        rows = np.flatnonzero(~self._named(plan.emitter, "actor") & ~self._named(plan.emitter, "probe"))
        drawn, aims = torch.full_like(target, torch.nan), [self._aim(Purpose.NEGATIVE, row) for row in rows.tolist()]
        if aims:
            cells, noise = map(np.array, zip(*aims, strict=True))
            drawn[rows] = torch.from_numpy(self._descriptors_of(cells) + noise)
        again = ~drawn.to(transitions.row.device)[transitions.row].isnan().any(1)
        negatives = label(transitions.select(again), self._offset, self._seen(reached), self._seen(drawn))
        return concatenate(kept, negatives)

    def _aim(self, purpose: Purpose, row: int) -> tuple[int, np.ndarray]:
        """An elite's cell, drawn uniformly for a row, and noise for its descriptor."""
        generator, spec = self.streams.generator(purpose, self.generation, row), self.task.spec
        cell, span = int(self.archive.sample(generator, 1)[0]), np.subtract(spec.upper, spec.lower)
        return cell, self.settings.target_noise * span * generator.standard_normal(len(span))

    def _descriptors_of(self, cells: np.ndarray) -> np.ndarray:
        return self.archive.descriptors_of(torch.from_numpy(cells)).cpu().numpy()

    def _reward_offset(self) -> float | None:
        if self.settings.reward_offset is not None or not self.conditioned:
            return self.settings.reward_offset
        if self.task.spec.reward_offset is None:
            raise UserError(
                f"algorithm.reward_offset: {self.settings.name} scales rewards by how near the descriptor came, which"
                f" only works for rewards >= 0; task '{self.task.spec.name}' states no offset, set one"
            )
        return self.task.spec.reward_offset


def _policy_of(task: Task, algorithm: str) -> Any:
    if not isinstance(task, EpisodicTask):
        raise UserError(f"algorithm.name: {algorithm} needs a task whose genomes are policies, not {task.spec.name}")
    if not isinstance(task.policy, Mlp):
        raise UserError(f"policy.kind: {algorithm} needs 'mlp', not '{task.policy.settings.kind}'")
    if task.spec.discrete:
        raise UserError(f"algorithm.name: {algorithm} needs continuous actions, those of {task.spec.name} are discrete")
    if task.policy.settings.output == "linear":
        raise UserError(f"policy.output: {algorithm} needs actions within [-1, 1]: 'tanh' or 'clip', not 'linear'")
    return task.policy
