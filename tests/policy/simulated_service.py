"""A fleet whose truth is known: tokens match with given probabilities, steps take given times plus noise.

It executes tables as an engine does (pool in order, probes of K=0 and of far positions, probes at K=0) and gives the
counters that an engine would give: the drafters that look up are scored on what is emitted also where they don't
draft. What the best caps really are is computed here by other means than in the policy.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bowsprit_policy import control
from bowsprit_policy.control import ControlStep
from bowsprit_policy.observation import ControlSettings, DrafterSpec, Observation, PodObservation
from bowsprit_policy.table import caps_at
from bowsprit_policy.wire import COUNT_BASED, DrafterState, DrafterType, EngineStats, Profile, StepCell, TableRow
from builders import MODEL_DIGEST, drafter_stats, engine_stats
from builders import profile as build_profile

CONTEXT = 512
BASELINE_EVERY = 64
WIDE_PROBE_EVERY = 64


@dataclass(slots=True, kw_only=True)
class SimulatedDrafter:
    """The truth about one drafter. `unit_seconds` per drafted token. `evaluated`: what is expected of its revision."""

    name: str
    type: DrafterType
    share: float
    matches: tuple[float, ...]
    unit_seconds: float = 0.0
    state: DrafterState = DrafterState.ACTIVE
    reason: str = ""
    revision: str | None = None
    evaluated: tuple[float, ...] = ()
    opportunities: int = 0
    proposed: int = 0
    drafted: int = 0
    reached: list[int] = field(default_factory=lambda: [0] * 32)
    matched: list[int] = field(default_factory=lambda: [0] * 32)
    extendable: list[int] = field(default_factory=lambda: [0] * 32)
    counted_drafted: list[int] = field(default_factory=lambda: [0] * 32)
    seconds: float = 0.0

    def count_anew(self) -> None:
        """As a new process does, and an engine with a new revision."""
        self.opportunities = self.proposed = self.drafted = 0
        self.reached, self.matched, self.seconds = [0] * 32, [0] * 32, 0.0
        self.extendable, self.counted_drafted = [0] * 32, [0] * 32


@dataclass(slots=True, kw_only=True)
class SimulatedService:
    """One pod. `step_seconds(batch, rows)`: the true time of a step without drafting; `noise` is relative, per step.

    `is_previous_version`: it counts as engines did before they said how long drafts were.
    """

    drafters: list[SimulatedDrafter]
    step_seconds: Callable[[int, int], float]
    batch: int = 1
    max_batch_size: int = 8
    max_draft_tokens: int = 8
    noise: float = 0.05
    seed: int = 1
    steps_per_tick: int = 300
    contended_share: float = 0.0
    has_profile: bool = True
    is_previous_version: bool = False
    has_wide_probes: bool = True
    boot_id: str = "boot-1"
    uptime: float = 0.0
    num_steps: int = 0
    tokens: int = 0
    sequence_steps: int = 0
    cells: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    random: random.Random = field(init=False)
    profile: Profile = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.profile = self._profiled()

    def restart(self) -> None:
        """A new process: every counter begins again."""
        self.boot_id = f"boot-{int(self.boot_id.removeprefix('boot-')) + 1}"
        self.uptime, self.tokens, self.sequence_steps, self.cells = 0.0, 0, 0, {}
        for drafter in self.drafters:
            drafter.count_anew()

    def load(self, name: str, revision: str, *, matches: tuple[float, ...], evaluated: tuple[float, ...]) -> None:
        """Swap a trained revision in: its counters begin again."""
        drafter = next(drafter for drafter in self.drafters if drafter.name == name)
        drafter.count_anew()
        drafter.state, drafter.revision = DrafterState.ACTIVE, revision
        drafter.matches, drafter.evaluated = matches, evaluated

    def run(self, table: Sequence[TableRow] | None) -> None:
        """One tick of traffic under a table."""
        for _ in range(self.steps_per_tick):
            self._step(caps_at(table or (), self.batch))
        self.uptime += 15.0

    def stats(self) -> EngineStats:
        return engine_stats(
            boot_id=self.boot_id,
            uptime_seconds=self.uptime,
            draft_tokens_max=self.max_draft_tokens,
            max_batch_size=self.max_batch_size,
            generation_tokens=self.tokens,
            sequence_steps=self.sequence_steps,
            drafters=[
                drafter_stats(
                    d.name,
                    type=d.type,
                    state=d.state,
                    reason=d.reason,
                    revision=d.revision,
                    opportunities=d.opportunities,
                    proposed=d.proposed,
                    reached=d.reached,
                    matched=d.matched,
                    extendable=() if self.is_previous_version else d.extendable,
                    drafted=() if self.is_previous_version else d.counted_drafted,
                    drafted_tokens=d.drafted,
                    draft_seconds=d.seconds,
                )
                for d in self.drafters
            ],
            cells=[
                StepCell(
                    batch=batch,
                    rows=rows,
                    context=CONTEXT,
                    steps=int(steps),
                    seconds=seconds,
                    tokens=int(tokens),
                    contended=int(contended),
                )
                for (batch, rows), (steps, seconds, tokens, contended) in self.cells.items()
            ],
        )

    def _profiled(self) -> Profile:
        """What the engine would have measured at start-up: exact, at every K of every batch bucket."""
        return build_profile(
            [
                StepCell(
                    batch=b, rows=r, context=CONTEXT, steps=10, seconds=10 * self.step_seconds(b, r), tokens=10 * b
                )
                for b in self.buckets()
                for r in (b * (1 + k) for k in range(self.max_draft_tokens + 1))
            ],
            model_digest=MODEL_DIGEST,
        )

    def buckets(self) -> list[int]:
        return [1 << i for i in range(self.max_batch_size.bit_length())]

    def settings(self, **changes: object) -> ControlSettings:
        specs = tuple(DrafterSpec(name=d.name, type=d.type, evaluated=d.evaluated) for d in self.drafters)
        return ControlSettings(**{"drafters": specs, "max_draft_tokens": self.max_draft_tokens, **changes})  # type: ignore[arg-type]

    def true_goodput(self, caps: dict[str, int], batch: int) -> float:
        """Tokens per second by enumeration of who proposes in each sequence (the last drafter always asked last)."""
        active = [d for d in self.drafters if caps.get(d.name, 0) > 0 and d.state is DrafterState.ACTIVE]
        outcomes, left = [], 1.0  # of one sequence: probability, draft tokens, accepted, drafting seconds
        for drafter in active:
            k = caps[drafter.name]
            accepted = sum(math.prod(drafter.matches[:i]) for i in range(1, k + 1))
            outcomes.append((left * drafter.share, k, accepted, k * drafter.unit_seconds))
            left *= 1.0 - drafter.share
        outcomes.append((left, 0, 0.0, 0.0))
        length = 1.0 + sum(p * accepted for p, _, accepted, _ in outcomes)
        seconds = batch * sum(p * drafting for p, _, _, drafting in outcomes)
        rows_of: dict[int, float] = {batch: 1.0}
        for _ in range(batch):
            grown: dict[int, float] = {}
            for (rows, p), (q, k, _, _) in itertools.product(rows_of.items(), outcomes):
                grown[rows + k] = grown.get(rows + k, 0.0) + p * q
            rows_of = grown
        seconds += sum(p * self.step_seconds(batch, rows) for rows, p in rows_of.items())
        return batch * length / seconds

    def best_goodput(self, batch: int) -> float:
        names = [d.name for d in self.drafters]
        choices = itertools.product(range(self.max_draft_tokens + 1), repeat=len(names))
        return max(self.true_goodput(dict(zip(names, caps, strict=True)), batch) for caps in choices)

    def _step(self, caps: dict[str, int]) -> None:
        self.num_steps += 1
        is_baseline = self.num_steps % BASELINE_EVERY == 0
        probe = None
        if self.has_wide_probes and self.num_steps % WIDE_PROBE_EVERY == 32:
            usable = [d for d in self.drafters if d.state is DrafterState.ACTIVE]
            if usable:
                probe = {usable[self.num_steps // WIDE_PROBE_EVERY % len(usable)].name: self.max_draft_tokens}
        rows, tokens, drafting = 0, 0, 0.0
        for sequence in range(self.batch):
            allowed = {} if is_baseline else probe if probe is not None and sequence == 0 else caps
            drafted, accepted, seconds = self._draft(allowed)
            rows, tokens, drafting = rows + 1 + drafted, tokens + 1 + accepted, drafting + seconds
        self.tokens += tokens
        self.sequence_steps += self.batch
        cell = self.cells.setdefault((self.batch, rows), [0.0, 0.0, 0.0, 0.0])
        if self.random.random() < self.contended_share:
            cell[3] += 1
            return
        noise = max(0.5, self.random.gauss(1.0, self.noise))
        taken = (1, (self.step_seconds(self.batch, rows) + drafting) * noise, tokens, 0)
        self.cells[self.batch, rows] = [a + b for a, b in zip(cell, taken, strict=True)]

    def _draft(self, caps: dict[str, int]) -> tuple[int, int, float]:
        for drafter in self.drafters:
            k = caps.get(drafter.name, 0)
            if drafter.state is not DrafterState.ACTIVE:
                continue
            if k == 0:
                self._score(drafter)
                continue
            drafter.opportunities += 1
            is_proposed = self.random.random() < drafter.share
            if not self.is_previous_version:
                drafter.extendable[0] += 1
                drafter.reached[0] += not is_proposed
            if not is_proposed:
                continue
            drafter.proposed += 1
            drafter.drafted += k
            drafter.seconds += k * drafter.unit_seconds
            for position in range(k):
                drafter.extendable[position] += position > 0
                drafter.counted_drafted[position] += 1
            return k, self._matched(drafter, k), k * drafter.unit_seconds
        return 0, 0, 0.0

    def _score(self, drafter: SimulatedDrafter) -> None:
        """What it would have drafted against what was emitted; nothing of it costs a row."""
        if drafter.type not in COUNT_BASED or self.is_previous_version:
            return
        drafter.opportunities += 1
        if self.random.random() < drafter.share:
            drafter.proposed += 1
            self._matched(drafter, self.max_draft_tokens)
        else:
            drafter.reached[0] += 1

    def _matched(self, drafter: SimulatedDrafter, k: int) -> int:
        for position in range(k):
            drafter.reached[position] += 1
            if self.random.random() >= drafter.matches[position]:
                return position
            drafter.matched[position] += 1
        return k


def loop(
    service: SimulatedService, ticks: int, *, state: control.ControlState | None = None, **changes: object
) -> list[ControlStep]:
    """Run the control loop over the service: traffic under the table in force, a scrape, a decision; 15 s per tick."""
    settings = service.settings(**changes)
    state = state if state is not None else control.begin(table=None)
    steps = []
    for _ in range(ticks):
        service.run(state.table)
        observation = Observation(
            pods=(
                PodObservation(
                    uid="pod-1", stats=service.stats(), profile=service.profile if service.has_profile else None
                ),
            )
        )
        steps.append(control.step(state, observation, settings, service.num_steps * 0.05))
        state = steps[-1].state
    return steps
