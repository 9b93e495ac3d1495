"""The curve C(b, r): seconds of a step of b sequences and r rows, in the context lengths that this fleet has now.

Measured cells beat profiled ones; between measured rows the profile keeps its shape and is only scaled. The real
curve has steps, so nothing is fitted: cells are made monotone in r (pool adjacent violators) and read off, linearly
between neighbours. Refuses to know acceptance or drafting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bowsprit_policy.acceptance import Estimate
from bowsprit_policy.cost import MIN_MEASURED_STEPS, CostState, MeasuredCell, relative_error

# Relative standard error of a profiled cell against another: quiet machine, a handful of repetitions.
PROFILE_ERROR = 0.015


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One point of a curve in r. `weight` decides who yields where two points contradict monotony."""

    rows: float
    seconds: float
    error: float  # relative
    weight: float


@dataclass(slots=True)
class StepTimes:
    """C(b, r) over one CostState. Curves are built when first asked for."""

    cost: CostState
    _known_batches: list[int] = field(init=False)
    _shares: dict[int, dict[int, float]] = field(default_factory=dict)
    _curves: dict[tuple[int, int], list[Node]] = field(default_factory=dict)
    _read: dict[tuple[int, float], Estimate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known_batches = sorted(_by_bucket(self.cost))

    @property
    def is_known(self) -> bool:
        """Is there any figure at all?"""
        return bool(self._known_batches)

    def batches(self) -> list[int]:
        """The batch buckets that have figures, ascending: the profile's, else the measured ones."""
        return list(self._known_batches)

    def seconds(self, *, batch: int, rows: float) -> Estimate:
        """Seconds of one step (drafting excluded) and its relative error. Requires `is_known`."""
        found = self._read.get((batch, rows))
        if found is None:
            found = self._read[batch, rows] = self._mixed_over_contexts(batch, rows)
        return found

    def _mixed_over_contexts(self, batch: int, rows: float) -> Estimate:
        shares = self._shares.get(batch) or self._shares.setdefault(batch, _context_shares(self.cost, batch))
        estimates = [(share, self._at(batch, context, rows)) for context, share in shares.items()]
        value = sum(share * estimate.value for share, estimate in estimates)
        return Estimate(value=value, error=max(estimate.error for _, estimate in estimates))

    def _at(self, batch: int, context: int, rows: float) -> Estimate:
        known = self._known_batches
        if batch in known:
            return _read_off(self._curve(batch, context), rows)
        below = [b for b in known if b < batch]
        above = [b for b in known if b > batch]
        if not below or not above:
            return _read_off(self._curve(max(below) if below else min(above), context), rows)
        low, high = max(below), min(above)
        a, b = _read_off(self._curve(low, context), rows), _read_off(self._curve(high, context), rows)
        part = (batch - low) / (high - low)
        return Estimate(value=a.value + part * (b.value - a.value), error=max(a.error, b.error))

    def _curve(self, batch: int, context: int) -> list[Node]:
        found = self._curves.get((batch, context))
        if found is None:
            found = self._curves[batch, context] = _built(self.cost, batch, context)
        return found


def monotone(nodes: Sequence[Node]) -> list[Node]:
    """The nearest curve that never falls, by pool adjacent violators; a step stays a step."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, number of nodes
    for node in nodes:
        mean, weight, count = node.seconds, node.weight, 1
        while blocks and blocks[-1][0] > mean:
            other_mean, other_weight, other_count = blocks.pop()
            mean = (mean * weight + other_mean * other_weight) / (weight + other_weight)
            weight += other_weight
            count += other_count
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    return [
        Node(rows=node.rows, seconds=mean, error=node.error, weight=node.weight)
        for node, mean in zip(nodes, means, strict=True)
    ]


def _by_bucket(cost: CostState) -> dict[int, dict[int, dict[int, float]]]:
    """Seconds per step of the reference cells by batch, context and rows: the profile, else what was measured."""
    table: dict[int, dict[int, dict[int, float]]] = {}
    for cell in cost.profile:
        table.setdefault(cell.batch, {}).setdefault(cell.context, {})[cell.rows] = cell.seconds / cell.steps
    if not table:
        for measured in _trusted(cost):
            by_rows = table.setdefault(measured.batch, {}).setdefault(measured.context, {})
            by_rows[measured.rows] = measured.verify_seconds / measured.steps
    return table


def _trusted(cost: CostState) -> list[MeasuredCell]:
    return [cell for cell in cost.measured if cell.steps >= MIN_MEASURED_STEPS]


def _built(cost: CostState, batch: int, context: int) -> list[Node]:
    reference = _reference(cost, batch, context)
    measured = {cell.rows: cell for cell in _trusted(cost) if cell.batch == batch and cell.context == context}
    ratios = {
        rows: (cell.verify_seconds / cell.steps) / _read_off(reference, rows).value for rows, cell in measured.items()
    } or {1: _overall_ratio(cost)}
    nodes = [
        Node(
            rows=node.rows,
            seconds=node.seconds * _between(ratios, node.rows),
            error=node.error,
            weight=1.0,
        )
        for node in reference
        if node.rows not in measured
    ]
    nodes += [
        Node(
            rows=rows,
            seconds=cell.verify_seconds / cell.steps,
            error=relative_error(cell),
            weight=max(10.0, cell.steps),
        )
        for rows, cell in measured.items()
    ]
    return monotone(sorted(nodes, key=lambda node: node.rows))


def _reference(cost: CostState, batch: int, context: int) -> list[Node]:
    contexts = _by_bucket(cost)[batch]
    nearest = min((c for c in contexts if c >= context), default=max(contexts))
    return [
        Node(rows=rows, seconds=seconds, error=PROFILE_ERROR, weight=1.0)
        for rows, seconds in sorted(contexts[nearest].items())
    ]


def _overall_ratio(cost: CostState) -> float:
    """Measured over profiled, over all cells: one-off differences such as sampling and streaming."""
    table = _by_bucket(cost)
    pairs = [
        (cell.verify_seconds, cell.steps * _read_off(_reference(cost, cell.batch, cell.context), cell.rows).value)
        for cell in _trusted(cost)
        if cell.batch in table
    ]
    expected = sum(b for _, b in pairs)
    return sum(a for a, _ in pairs) / expected if expected > 0 else 1.0


def _context_shares(cost: CostState, batch: int) -> dict[int, float]:
    """How decode steps spread over context buckets: at this batch, else at any, else evenly over the profile's."""
    steps: dict[int, float] = {}
    for cell in cost.measured:
        if cell.batch == batch:
            steps[cell.context] = steps.get(cell.context, 0.0) + cell.steps
    if not steps:
        for cell in cost.measured:
            steps[cell.context] = steps.get(cell.context, 0.0) + cell.steps
    if not steps:
        steps = {cell.context: 1.0 for cell in cost.profile}
    least = 0.05 * sum(steps.values())
    kept = {context: n for context, n in steps.items() if n >= least} or steps
    return {context: n / sum(kept.values()) for context, n in kept.items()}


def _read_off(nodes: Sequence[Node], rows: float) -> Estimate:
    """Linear between nodes; flat below the first; beyond the last it goes on with the last slope."""
    at = bisect_left([node.rows for node in nodes], rows)
    if at < len(nodes) and (nodes[at].rows == rows or at == 0):
        return Estimate(value=nodes[at].seconds, error=nodes[at].error)
    if at == len(nodes):
        last = nodes[-1]
        slope = 0.0
        if len(nodes) > 1:
            slope = (last.seconds - nodes[-2].seconds) / (last.rows - nodes[-2].rows)
        return Estimate(value=last.seconds + slope * (rows - last.rows), error=2 * last.error)
    low, high = nodes[at - 1], nodes[at]
    part = (rows - low.rows) / (high.rows - low.rows)
    return Estimate(value=low.seconds + part * (high.seconds - low.seconds), error=max(low.error, high.error))


def _between(points: Mapping[int, float], rows: float) -> float:
    """Linear between points, flat outside."""
    known = sorted(points)
    at = bisect_left(known, rows)
    if at == len(known):
        return points[known[-1]]
    if at == 0 or known[at] == rows:
        return points[known[at]]
    low, high = known[at - 1], known[at]
    return points[low] + (rows - low) / (high - low) * (points[high] - points[low])
