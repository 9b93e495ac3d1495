"""One scrape of the fleet against the last one: what all pods did together in between.

A pod without fresh stats is left out and its last counters are kept, so that nothing is lost or counted twice when it
answers again. The first scrape of a new leader sets the marks: counters since long ago are history, and say little
about now.
Engines of another model than the fleet's (a rolling update) are left out until none of the old is left.
"""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_policy.counters import CounterDelta, delta, total
from bowsprit_policy.observation import Observation
from bowsprit_policy.wire import EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPod:
    """The last counters that a pod gave."""

    uid: str
    stats: EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """Marks of the last scrape. `model_digest` None: no engine has answered yet."""

    pods: tuple[SeenPod, ...] = ()
    model_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStep:
    """`delta`: what happened since the last scrape. `captured`: tokens and requests, those before the first included.

    `history`: at the first scrape, what these pods have done since they began. `answering`: the fresh stats.
    `has_other_model`: the engines serve another model than at the last scrape.
    """

    state: FleetState
    delta: CounterDelta
    history: CounterDelta
    captured: tuple[int, int]
    answering: tuple[EngineStats, ...]
    has_other_model: bool

    @property
    def num_answering(self) -> int:
        return len(self.answering)


def observe(state: FleetState, observation: Observation) -> FleetStep:
    """Take in one scrape. Pods that are gone are forgotten."""
    fresh = {pod.uid: pod.stats for pod in observation.pods if pod.stats is not None}
    digests = [stats.model_digest for stats in fresh.values()]
    digest = state.model_digest if state.model_digest in digests or not digests else digests[0]
    has_other_model = state.model_digest is not None and digest != state.model_digest
    fresh = {uid: stats for uid, stats in fresh.items() if stats.model_digest == digest}
    is_first = state.model_digest is None
    last = {} if has_other_model else {seen.uid: seen.stats for seen in state.pods}
    deltas = [delta(last.get(uid), stats) for uid, stats in fresh.items()]
    all_of_it = total(deltas)
    present = {pod.uid for pod in observation.pods}
    kept = {uid: stats for uid, stats in last.items() if uid in present} | fresh
    return FleetStep(
        state=FleetState(
            pods=tuple(SeenPod(uid=uid, stats=stats) for uid, stats in sorted(kept.items())), model_digest=digest
        ),
        delta=CounterDelta() if is_first else all_of_it,
        history=all_of_it if is_first else CounterDelta(),
        captured=(all_of_it.captured_tokens, all_of_it.captured_requests),
        answering=tuple(fresh.values()),
        has_other_model=has_other_model,
    )
