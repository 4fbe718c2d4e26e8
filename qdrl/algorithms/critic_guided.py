"""The common base of PGA-, DCG- and DCRL-MAP-Elites: emitters of a generation, and training of critics and actor.

PGA: https://doi.org/10.1145/3449639.3459304. DCG: https://arxiv.org/abs/2303.03832. DCRL:
https://arxiv.org/abs/2401.08632.

Each row of a generation has one emitter. The rows of an emitter are spread evenly over the batch, so that every rank
has its share of the costly ones:

- `variation`: offspring of elites, as in MAP-Elites;
- `gradient`: elites after gradient ascent on the critic;
- `actor`: the actor trained with the critics, with a fixed target descriptor, as a genome;
- `probe`: the same as `actor`, but evaluated for its transitions only; it never enters the archive.

`pga_map_elites`, `dcg_map_elites` and `dcrl_map_elites` set the number of rows of each emitter, and whether critics are
conditioned on descriptors. After a generation the learners add all transitions to the replay buffer and train critics
and actor. They broadcast what `ask` needs: the parameters of critic and actor, and the minibatches of observations for
the next policy gradients.

With `probe_order = "after_children"` even generations are children, and odd ones are probes, which training follows.
Probes are then networks with the actor's layers, which may differ from the policies'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from qdrl.algorithms.base import Workload
from qdrl.algorithms.critic_guided_checks import check_learned, check_negatives, check_rows, policy_of, reward_offset_of
from qdrl.algorithms.critic_guided_settings import CriticGuidedSettings
from qdrl.algorithms.dealing import Plan, deal
from qdrl.algorithms.map_elites import MapElites
from qdrl.archives.base import AnyArchive
from qdrl.archives.batches import copy_rows
from qdrl.critics.descriptors import normalize
from qdrl.critics.injection import inject
from qdrl.critics.labelling import concatenate, drop_nonfinite, label
from qdrl.critics.learner import Learner
from qdrl.critics.replay_buffer import LabelledTransitions
from qdrl.critics.variation import PolicyGradient
from qdrl.evaluation import Candidates, Evaluation, Transitions
from qdrl.parallel.exchange import LOCAL, Exchange, TrainingResult
from qdrl.parallel.learners import Learners
from qdrl.streams import Purpose, Streams
from qdrl.tasks.base import Task

_USED_ARRAYS = ("critic", "actor", "states")  # arrays of a training result that `ask` uses


class CriticGuided(MapElites):
    """Base class of MAP-Elites with policy-gradient variation.

    Args:
        task: a task whose genomes are policies.
        archive: the archive that `tell` inserts into; networks are on its device.
        streams: the run's random numbers.
        settings: rows of each emitter, and settings of the learners.

    Attributes:
        conditioned: whether critics and actor take a descriptor as input.
        dimensions: numbers of that descriptor, 0 if not conditioned.
        learner: this rank's shards of the replay buffer, and the networks.

    Raises:
        UserError: the task's genomes are not deterministic policies of continuous actions in [-1, 1], the critic is
            conditioned but the task states no reward offset, the critic is not conditioned but there are negatives, or
            rows do not fit the learners or the actor's layers.
    """

    settings: CriticGuidedSettings
    emitters: tuple[str, ...] = ("random", "variation", "gradient", "actor", "probe")
    conditioned: ClassVar[bool] = True

    def __init__(self, task: Task, archive: AnyArchive, streams: Streams, settings: CriticGuidedSettings) -> None:
        super().__init__(task, archive, streams, settings)
        self._policy = policy_of(task, settings.name)
        check_rows(settings, self._policy)
        check_negatives(settings, conditioned=self.conditioned)
        self._actor_shape = self._policy.resized(settings.critic.actor_hidden_sizes)
        self._offset = reward_offset_of(task, settings, conditioned=self.conditioned)
        counts = settings.emitter_rows
        self.emitters = ("random", *(name for name, count in counts.items() if count))
        self.counts_actor_evaluations = settings.count_probes
        probes = {"probe": counts.pop("probe")} if settings.probes_apart else {}
        self._dealt_to = [deal(some, self.emitters) for some in (counts, probes)]
        self.dimensions = len(task.spec.axes) if self.conditioned else 0
        self.learner = Learner(self._policy, self.dimensions, settings, streams, archive.device)
        self._gradient = PolicyGradient(self._policy, self.learner.td3.critic_mlp, settings.gradient, archive.device)
        self._learned: TrainingResult = {}
        # Not the learner's actor now: if a rank is lost during the first training, only some ranks have trained.
        self._initial_actor = self.learner.td3.actor[0].clone()

    @classmethod
    def workload(cls, settings: CriticGuidedSettings) -> Workload:
        """Return the work that settings state."""
        children, probes, apart = settings.batch_size, settings.probe_rows, settings.probes_apart
        return Workload(
            rows=max(children, probes) if apart else children + probes,
            further_rows=min(children, probes) if apart else 0,
            gradient_rows=settings.gradient_rows,
            probe_rows=0 if settings.count_probes else settings.probe_rows,
            generations=1 + settings.probes_apart,
        )

    @property
    def batch_size(self) -> int:
        """Return the number of rows in the next generation."""
        return len(self._dealt)

    def ask(self, rows: range | None = None) -> Candidates:
        """Return candidates by all emitters; the evaluation returns their transitions."""
        if not self._is_for_probes:
            return replace(super().ask(rows), wants_transitions=True)
        rows = range(self.batch_size) if rows is None else rows
        plan = self._plan(rows)
        return Candidates(
            generation=self.generation,
            rows=rows,
            genomes=self._injected_actors(plan.target),
            seeds=torch.from_numpy(self.streams.seeds(Purpose.EVALUATION, self.generation, rows)),
            emitter=torch.from_numpy(plan.emitter),
            parent_cell=torch.full((len(rows),), -1),
            wants_transitions=True,
            hidden_sizes=self._actor_shape.settings.hidden_sizes,
        )

    def tell(self, evaluation: Evaluation, exchange: Exchange = LOCAL) -> dict[str, float]:
        """Train on the transitions, then insert the rows into the archive. Collective.

        Args:
            evaluation: all rows, with the transitions of this rank's rows.
            exchange: the collectives; its `train` runs on the learners.

        Returns:
            The counts of `insert`, the number of `probe` rows as `actor_evaluations`, and the metrics of training.
        """
        self.check_turn(evaluation)
        # Training precedes insertion: targets are drawn from the archive that the rows were proposed from.
        learned = exchange.train(evaluation, partial(self._train, evaluation), self.settings.learners)
        probes = self._named(evaluation.emitter, "probe")
        if self._is_for_probes:
            counts = dict.fromkeys(map("_".join, product(("added", "improved"), self.emitters)), 0.0)
            self.generation += 1
        else:
            counts = self._insert(evaluation, ~evaluation.failed & ~probes, exchange)
        if _USED_ARRAYS[0] in learned:
            self._learned = {name: learned.pop(name) for name in _USED_ARRAYS}
        report = {name: float(value) for name, value in learned.items()}
        return {"actor_evaluations": float(probes.sum()), **counts, **report}

    @property
    def actor(self) -> dict[str, np.ndarray] | None:
        """Return the trained actor in the format of `StoredArchive.actor`; None before the first training."""
        if not self._learned:
            return None
        layers = {} if self._actor_shape is self._policy else {"layers": np.array(self._actor_shape.sizes)}
        return {"genome": self._learned["actor"], "dimensions": np.array(self.dimensions), **layers}

    def collect_state(self) -> None:
        """Collect the shards of the replay buffer on the first rank, for `state_dict`. Collective."""
        self.learner.collect()

    def state_dict(self) -> dict[str, Any]:
        """Return the generation, the learner's state and the arrays of the last training that `ask` uses."""
        return {
            **super().state_dict(),
            "learner": self.learner.state_dict(self.generation),
            "learned": self._learned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            ValueError: an array has another shape than the networks of these settings.
        """
        super().load_state_dict(state)
        self.learner.load_state_dict(state["learner"], self.generation)
        learned = {name: np.asarray(state["learned"][name], np.float32) for name in _USED_ARRAYS if state["learned"]}
        td3, seen = self.learner.td3, self._policy.sizes[0]
        expected = {"critic": tuple(td3.critic[0].shape), "actor": tuple(td3.actor[0].shape)}
        expected["states"] = (*learned["states"].shape[:2], seen) if learned else ()
        check_learned(learned, expected)
        self._learned = learned

    def continue_from_elites(self, generation: int) -> None:
        """Continue at a generation with new networks and an empty replay buffer."""
        super().load_state_dict({"generation": generation})
        self.learner.begin_at(generation)

    @property
    def _varies(self) -> bool:
        turn = self.generation // (1 + self.settings.probes_apart)
        return turn >= self._initial_generations and len(self.archive) > 0 and bool(self._learned)

    @property
    def _is_for_probes(self) -> bool:
        """Return whether the next generation is probes alone."""
        return self.settings.probes_apart and self.generation % 2 == 1 and len(self.archive) > 0

    @property
    def _dealt(self) -> np.ndarray:
        """Return the emitter of each row of the next generation."""
        return self._dealt_to[self._is_for_probes]

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
                made, parents[mine] = self._gradient_offspring(plan.cell[mine], plan.target[mine]), plan.cell[mine]
            else:
                made = self._injected_actors(plan.target[mine])
            copy_rows(made, torch.arange(len(mine)), genomes, torch.from_numpy(mine))
        return genomes, parents, plan.emitter

    def _plan(self, rows: Sequence[int]) -> Plan:
        """Return emitters, elites and targets of these rows; identical on every rank until the archive changes."""
        spec = self.task.spec
        plan = Plan(self._dealt[list(rows)], np.full(len(rows), -1), np.full((len(rows), len(spec.axes)), np.nan))
        gradient = self._named(plan.emitter, "gradient")
        aims = gradient | self._named(plan.emitter, "actor") | self._named(plan.emitter, "probe")
        noise = np.zeros_like(plan.target)
        for index in np.flatnonzero(aims):
            plan.cell[index], noise[index] = self._aim(Purpose.TARGET, rows[int(index)])
        noise[gradient] = 0.0  # the target of a gradient row is its parent's exact descriptor
        plan.target[aims] = self._descriptors_of(plan.cell[aims]) + noise[aims]
        return plan

    def _named(self, emitter: Any, name: str) -> Any:
        """Return a mask of the rows of one emitter, given emitter indices `(rows,)`."""
        return emitter == (self.emitters.index(name) if name in self.emitters else -1)

    def _gradient_offspring(self, cells: np.ndarray, targets: np.ndarray) -> Tensor:
        """Return policy-gradient offspring of the elites of these cells, `(rows, parameters)`."""
        parents, device = self.archive.genomes_of(torch.from_numpy(cells)), self.archive.device
        states, critic = (torch.from_numpy(self._learned[name]).to(device) for name in ("states", "critic"))
        aims = self._scaled(torch.from_numpy(targets)).to(device)
        return self._gradient.vary(parents, states, critic, aims)

    def _injected_actors(self, targets: np.ndarray) -> Tensor:
        """Return the actor with each of the targets `(rows, d)` folded into its biases, `(rows, parameters)`."""
        aims = self._scaled(torch.from_numpy(targets)).to(self.archive.device)
        learned = self._learned
        actor = torch.from_numpy(learned["actor"]).to(aims.device) if learned else self._initial_actor
        return inject(self._actor_shape, actor, aims)

    def _scaled(self, descriptors: Tensor) -> Tensor:
        """Return the descriptors scaled to [-1, 1] and cut there, `(rows, dimensions)`."""
        return normalize(descriptors, self.archive.geometry.lower, self.archive.geometry.upper)[:, : self.dimensions]

    def _train(self, evaluation: Evaluation, shards: Sequence[Transitions], learners: Learners) -> TrainingResult:
        """Label this learner's transitions and train on them. Collective over the learners."""
        kept = [self._label(drop_nonfinite(transitions), evaluation) for transitions in shards]
        trains = self.generation % 2 == 1 or not self.settings.probes_apart
        return self.learner.train(self.generation, kept, learners, trains=trains)

    def _label(self, transitions: Transitions, evaluation: Evaluation) -> LabelledTransitions:
        """Return transitions as the replay buffer stores them: rewards offset, reached and target descriptors added."""
        reached = evaluation.descriptor
        if not (self._varies or self._is_for_probes):
            return label(transitions, self._offset, self._scaled(reached), self._scaled(reached))
        plan = self._plan(range(self.batch_size))
        target = torch.from_numpy(plan.target)
        if self.settings.gradient_rows_aim == "reached":
            target[self._named(plan.emitter, "gradient")] = torch.nan
        target = torch.where(target.isnan(), reached, target)
        kept = label(transitions, self._offset, self._scaled(reached), self._scaled(target))
        if not (self.settings.artificial_negatives and self.dimensions):
            return kept
        rows = np.flatnonzero(~self._named(plan.emitter, "actor") & ~self._named(plan.emitter, "probe"))
        drawn, aims = torch.full_like(target, torch.nan), [self._aim(Purpose.NEGATIVE, row) for row in rows.tolist()]
        if aims:
            cells, noise = map(np.array, zip(*aims, strict=True))
            drawn[rows] = torch.from_numpy(self._descriptors_of(cells) + noise)
        again = ~drawn.to(transitions.row.device)[transitions.row].isnan().any(1)
        negatives = label(transitions.select(again), self._offset, self._scaled(reached), self._scaled(drawn))
        return concatenate(kept, negatives)

    def _aim(self, purpose: Purpose, row: int) -> tuple[int, np.ndarray]:
        """Return the cell of an elite, drawn uniformly for this row, and noise for its descriptor, `(d,)`."""
        generator, spec = self.streams.generator(purpose, self.generation, row), self.task.spec
        cell, span = int(self.archive.sample(generator, 1)[0]), np.subtract(spec.upper, spec.lower)
        return cell, self.settings.target_noise * span * generator.standard_normal(len(span))

    def _descriptors_of(self, cells: np.ndarray) -> np.ndarray:
        """Return the descriptors of the elites of these cells, `(rows, d)`."""
        return self.archive.descriptors_of(torch.from_numpy(cells)).cpu().numpy()
