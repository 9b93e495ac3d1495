"""How many tokens each drafter may propose in this step: the pushed table, executed, and what keeps it honest.

Decides by the row of the current batch, less the drafters that the engine itself holds at 0 (lowering.py), and probes
(probing.py): a step at K = 0 keeps the baseline measured, a sequence drafted by one drafter up to its limit brings
fresh acceptance of far positions and of drafters that are held at 0. Refuses to know what the drafters are and how the
operator decides. Never raises K above the table but for a probe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bowsprit_engine.speculation.costs import StepTimes, batch_bucket
from bowsprit_engine.speculation.lowering import Lowering, Outcome
from bowsprit_engine.speculation.passed_over import PassedOver, merged
from bowsprit_engine.speculation.probing import SCORED_ANYWAY, SHORTEST_INTERVAL, Probes, interval
from bowsprit_engine.speculation.table import SpeculationMode, TableInForce
from bowsprit_engine.speculation.time_sources import TimeSources
from bowsprit_policy.wire import COUNT_BASED, DrafterType, LoweredDrafter, PolicyStatus, PolicyTable


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCaps:
    """`by_drafter`: most draft tokens per sequence. `probe`: for one sequence instead. `is_baseline`: a K=0 probe.

    `watch`: draft tokens for which a count-based drafter that is held at 0 is scored on the emitted text.
    `has_windows`: caps are upper bounds, and each sequence's window is chosen within them.
    """

    by_drafter: Mapping[str, int] = field(default_factory=dict)
    probe: Mapping[str, int] | None = None
    is_baseline: bool = False
    watch: int = 0
    has_windows: bool = False

    @property
    def is_probe(self) -> bool:
        return self.is_baseline or self.probe is not None


class PolicyExecutor:
    """Holds the table in force. `set_table`, `status` and `lowered` may be called from any thread."""

    def __init__(
        self,
        *,
        mode: SpeculationMode,
        drafter_types: Mapping[str, DrafterType],
        draft_tokens_max: int,
        is_usable: Callable[[str], bool],  # whether a drafter could propose at all now
        times: Callable[[], Sequence[StepTimes]],  # sources of step times, the best first
    ) -> None:
        self._mode = mode
        self._types = dict(drafter_types)
        self._max = draft_tokens_max
        self._is_usable = is_usable
        self._times = TimeSources(times)
        self._table = TableInForce(mode=mode, drafter_types=drafter_types, draft_tokens_max=draft_tokens_max)
        self._lowering = Lowering(self._times)
        self._costly = [name for name, drafter_type in drafter_types.items() if drafter_type not in COUNT_BASED]
        self._passed_over = PassedOver()
        self._probes: dict[int, Probes] = {}  # by batch bucket

    def status(self) -> PolicyStatus:
        """The rows that steps obey, and which drafters the engine holds below them."""
        table = self._table.in_force
        return PolicyStatus(revision=table.revision, table=table.table, lowered=self.lowered)

    @property
    def revision(self) -> int:
        return self._table.in_force.revision

    @property
    def lowered(self) -> tuple[LoweredDrafter, ...]:
        """Whom the engine holds at 0, and whom the table admits and the pool hardly ever asks."""
        admitted = [
            entry
            for entry in self._passed_over.lowered
            if any(self._table.caps(batch).get(entry.name) for batch in entry.batches)
        ]
        return merged([*self._lowering.lowered, *admitted])

    def set_table(self, table: PolicyTable) -> PolicyStatus:
        """Put a newer table in force. Raises StalePolicyError for an older one, CallerError for a malformed one."""
        self._table.push(table)
        return self.status()

    def caps(
        self, *, batch: int, context: float, asking: Callable[[str, int], float] = lambda name, draft_tokens: 0.0
    ) -> StepCaps:
        """The caps of the step that is about to run with `batch` decoding sequences.

        `asking`: what it takes to ask a drafter for so many tokens of one sequence, in steps.
        """
        if self._mode == "off" or batch == 0:
            return StepCaps()
        allowed = self._table.caps(batch)
        if self._mode != "auto":
            return StepCaps(by_drafter=allowed)
        lowered = self._lowering.names(batch)
        by_drafter = {name: cap for name, cap in allowed.items() if name not in lowered}
        probes = self._probes_of(batch)
        if any(by_drafter.values()) and probes.baseline_is_due():
            probes.steps_to_baseline = interval(self._lowering.gain(batch=batch, context=context))
            return StepCaps(is_baseline=True)
        probe = self._due_probe(probes, allowed, lowered, batch=batch, context=context, asking=asking)
        return StepCaps(by_drafter=by_drafter, probe=probe, watch=self._max, has_windows=True)

    def curve(self, *, batch: int, rows: int, most: int, context: float) -> tuple[float, ...]:
        """Seconds of a step of `batch` sequences with `rows`, … `rows` + `most` rows; () where unknown."""
        return self._times.curve(batch=batch, rows=rows, most=most, context=context)

    def observe(self, outcomes: Sequence[Outcome], *, batch: int, context: float) -> None:
        """Take in what became of a step's drafts, and lower or restore drafters by it."""
        if self._mode != "auto" or batch == 0:
            return
        allowed, probes = self._table.caps(batch), self._probes_of(batch)
        probes.heard_of({outcome.drafter for outcome in outcomes})
        with_caps = [(outcome, allowed.get(outcome.drafter) or self._max) for outcome in outcomes]
        if self._lowering.observe(with_caps, batch=batch, context=context):
            probes.steps_to_probe = SHORTEST_INTERVAL

    def observe_watched(self, outcomes: Iterable[Outcome], *, batch: int, context: float) -> None:
        """Take in what drafters that are held at 0 would have got: one that the engine lowered is restored by it."""
        if self._mode == "auto" and batch > 0:
            self._lowering.observe_watched(outcomes, self._table.caps(batch), batch=batch, context=context)

    def observe_asking(
        self,
        allowed: Sequence[Mapping[str, int]],  # per sequence: most draft tokens by drafter name
        asked: Collection[str],
        *,
        batch: int,
    ) -> None:
        """Take in whom a step that was no probe let draft, and who was asked for any of its sequences."""
        if self._mode != "auto" or not self._costly:
            return
        admitted = [
            name
            for name in self._costly
            if self._is_usable(name) and any(by_drafter.get(name, 0) > 0 for by_drafter in allowed)
        ]
        self._passed_over.observe(admitted=admitted, asked=asked, batch=batch)

    def begin_revision(self, name: str) -> None:
        """A drafter was swapped: what is remembered of it is void."""
        self._lowering.forget(name)
        self._passed_over.forget(name)
        for probes in self._probes.values():
            probes.steps_to_probe = min(probes.steps_to_probe, SHORTEST_INTERVAL)

    def _probes_of(self, batch: int) -> Probes:
        return self._probes.setdefault(batch_bucket(batch), Probes())

    def _due_probe(
        self,
        probes: Probes,
        allowed: Mapping[str, int],
        lowered: frozenset[str],
        *,
        batch: int,
        context: float,
        asking: Callable[[str, int], float],
    ) -> Mapping[str, int] | None:
        def draft_tokens_of(name: str) -> int:
            return allowed.get(name) or self._max if name in lowered else self._max

        candidates = [name for name in self._types if self._is_usable(name)] if self._max > 0 else []
        name = probes.probe_due(candidates, asking=lambda name: asking(name, draft_tokens_of(name)))
        if name is None:
            return None
        draft_tokens = draft_tokens_of(name)
        slowdown = self._times.slowdown(batch=batch, rows=batch + draft_tokens, context=context)
        probes.steps_to_probe = interval(slowdown - 1 if slowdown is not None else None)
        if name not in lowered and all(self._types[candidate] in COUNT_BASED for candidate in candidates):
            probes.steps_to_probe *= SCORED_ANYWAY  # not where a costly drafter waits for its turn: it has no other way
        return {name: draft_tokens}
