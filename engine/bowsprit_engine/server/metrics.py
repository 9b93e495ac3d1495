"""/metrics: the engine's counters under vLLM's names and the ones that nobody else exports.

Reads `engine.stats()` at each scrape, so that there is one set of counters and no copy to keep. Decides names and
labels (api.md, "Metrics"), and no figure that a fleet couldn't sum, but for gauges of the moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from bowsprit_engine.capture.intake import Capture
from bowsprit_engine.server.handle import EngineHandle
from bowsprit_engine.server.speedup import estimated_speedups
from bowsprit_policy.wire import DrafterStats, EngineStats, LoweredDrafter, PolicyStatus, StepCell


class EngineCollector(Collector):
    """Families of one engine. Labels `model_name` and `engine` are on each."""

    def __init__(self, engine: EngineHandle, capture: Capture, *, prefix: str, model_name: str) -> None:
        self._engine = engine
        self._capture = capture
        self._prefix = prefix
        self._common = {"model_name": model_name, "engine": "0"}

    def register(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: names are the engine's to say."""
        return ()

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield from self._serving(stats)
        yield from self._drafting(stats)
        yield from self._positions(stats.drafters)
        yield from self._shadows(stats.drafters)
        yield from self._table(self._engine.policy())
        yield from self._steps(stats.cells)
        yield self._counter(
            "capture_tokens",
            "Tokens of finished requests, by what became of them.",
            [({"outcome": outcome}, tokens) for outcome, tokens in self._capture.tokens_by_outcome().items()],
        )

    def _serving(self, stats: EngineStats) -> Iterator[Metric]:
        for name, text, value in (
            ("num_requests_running", "Sequences in the batch.", stats.requests_running),
            ("num_requests_waiting", "Sequences that wait for room.", stats.requests_waiting),
            ("kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.", stats.kv_cache_usage),
        ):
            yield self._gauge(name, text, [({}, value)])
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens of the requests taken.", stats.prompt_tokens),
            ("generation_tokens", "Tokens generated.", stats.generation_tokens),
            ("spec_decode_sequence_steps", "Decode steps, one per sequence.", stats.sequence_steps),
            ("spec_decode_probe_steps", "Steps that measured instead of following the table.", stats.probe_steps),
            ("prefill_steps", "Steps with prompt rows, which step_seconds leaves out.", stats.prefill_steps),
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_cache_queries),
            ("prefix_cache_hits", "Prompt tokens that it had.", stats.prefix_cache_hits),
            ("num_preemptions", "Sequences sent back to the queue for want of KV blocks.", stats.preemptions),
            (
                "corrupted_requests",
                "Requests ended by logits that are not finite (vLLM's name).",
                stats.corrupted_requests,
            ),
        ):
            yield self._counter(name, text, [({}, value)])

    def _drafting(self, stats: EngineStats) -> Iterator[Metric]:
        def counted(name: str, text: str, value: Mapping[str, float]) -> Metric:
            return self._counter(f"spec_decode_{name}", text, [({"drafter": key}, v) for key, v in value.items()])

        drafters = {drafter.name: drafter for drafter in stats.drafters}
        for name, text, values in (
            ("num_drafts", "Verified drafts that it began.", {n: _drafts(d) for n, d in drafters.items()}),
            ("num_draft_tokens", "Its tokens verified.", {n: d.drafted_tokens for n, d in drafters.items()}),
            ("num_accepted_tokens", "Of those, accepted.", {n: d.accepted_tokens for n, d in drafters.items()}),
            (
                "wasted_draft_tokens",
                "Of those, refused.",
                {n: d.drafted_tokens - d.accepted_tokens for n, d in drafters.items()},
            ),
            (
                "opportunities",
                "Sequence-steps in which it was asked; of look-up also those in which asking wasn't worth it.",
                {n: d.opportunities for n, d in drafters.items()},
            ),
            (
                "proposed",
                "Of those, in which it had a token to propose, also where it is only scored, held at 0.",
                {n: d.proposed for n, d in drafters.items()},
            ),
            ("draft_seconds", "Wall seconds of asking it.", {n: d.draft_seconds for n, d in drafters.items()}),
            (
                "not_finite",
                "Drafts ended by logits that are not finite.",
                {n: d.not_finite for n, d in drafters.items()},
            ),
        ):
            yield counted(name, text, values)
        yield self._gauge(
            "draft_kv_lag_tokens",
            "Tokens of live sequences that the target has computed and the drafter hasn't.",
            [({"drafter": name}, drafter.kv_lag_tokens) for name, drafter in drafters.items()],
        )
        info = InfoMetricFamily(
            f"{self._prefix}:drafter_revision", "Type, state and revision of each drafter.", labels=[*self._common]
        )
        for d in stats.drafters:
            words = {"drafter": d.name, "type": d.type.value, "state": d.state.value, "revision": d.revision or ""}
            info.add_metric([*self._common.values()], words)
        yield info

    def _positions(self, drafters: Iterable[DrafterStats]) -> Iterator[Metric]:
        for name, text, field in (
            (
                "spec_decode_extendable",
                "Sequence-steps in which this position was within its cap and turn, and all before were drafted.",
                "extendable",
            ),
            ("spec_decode_drafted", "Of those extendable, in which its token stood there to be verified.", "drafted"),
            (
                "spec_decode_reached",
                "Sequence-steps in which this position was within its cap and turn, and all before were drafted and "
                "matched; of look-up that is held at 0 by the emitted text.",
                "reached",
            ),
            ("spec_decode_matched", "Of those reached, drafted and matched.", "matched"),
            (
                "spec_decode_num_accepted_tokens_per_pos",
                "Its verified tokens accepted, by position (vLLM's name).",
                "accepted",
            ),
        ):
            yield self._counter(
                name,
                text,
                [
                    ({"drafter": drafter.name, "position": str(position)}, count)
                    for drafter in drafters
                    for position, count in enumerate(getattr(drafter, field))
                ],
            )

    def _shadows(self, drafters: Iterable[DrafterStats]) -> Iterator[Metric]:
        """Families of their own: no sum over drafters may take in what nobody was served."""
        shadows = {drafter.name: drafter.shadow for drafter in drafters if drafter.shadow is not None}
        info = InfoMetricFamily(
            f"{self._prefix}:shadow_revision",
            "A candidate in the shadow, and the revision that serves beside it.",
            labels=[*self._common],
        )
        for name, shadow in shadows.items():
            words = {"drafter": name, "state": shadow.state.value, "candidate": shadow.candidate.revision or ""}
            incumbent = "" if shadow.incumbent is None else shadow.incumbent.revision or ""
            info.add_metric([*self._common.values()], {**words, "incumbent": incumbent})
        yield info
        for field, text in (
            (
                "sequence_steps",
                "Sequence-steps on which this candidate and who serves are scored, since both are there.",
            ),
            ("seconds", "Wall seconds spent on this candidate, since it was loaded."),
        ):
            values = [({"drafter": name}, getattr(shadow, field)) for name, shadow in shadows.items()]
            yield self._counter(f"spec_decode_shadow_{field}", text, values)
        for field, text in (
            ("reached", "Scored sequence-steps with a token at this position, all before drafted and matched."),
            ("matched", "Of those reached in the shadow, drafted and matched."),
        ):
            yield self._counter(
                f"spec_decode_shadow_{field}",
                text,
                [
                    ({"drafter": name, "role": role, "position": str(position)}, count)
                    for name, shadow in shadows.items()
                    for role, scores in (("candidate", shadow.candidate), ("incumbent", shadow.incumbent))
                    if scores is not None
                    for position, count in enumerate(getattr(scores, field))
                ],
            )

    def _table(self, policy: PolicyStatus) -> Iterator[Metric]:
        """Each row is labelled with its largest batch."""
        rows, above = [], 0.0
        for row in policy.table:
            upto = math.inf if row.max_batch_size is None else row.max_batch_size
            held = {one.name: one.draft_tokens for one in policy.lowered if _is_held(one, above=above, upto=upto)}
            rows += [
                (upto, cap.name, min(cap.draft_tokens, held.get(cap.name, cap.draft_tokens))) for cap in row.drafters
            ]
            above = upto
        yield self._gauge(
            "spec_decode_num_speculative_tokens",
            "Draft tokens allowed per sequence, by row of the table and drafter; what the engine itself holds lower at "
            "one of a row's batches is that.",
            [({"batch": str(upto), "drafter": drafter}, draft_tokens) for upto, drafter, draft_tokens in rows],
        )
        yield self._gauge("policy_revision", "Revision of the table in force.", [({}, policy.revision)])

    def _steps(self, cells: Sequence[StepCell]) -> Iterator[Metric]:
        labels = ["batch", "rows", "context"]
        seconds = SummaryMetricFamily(
            f"{self._prefix}:step_seconds", "Whole steps without prefill.", labels=[*self._common, *labels]
        )
        contended = []
        for cell in cells:
            bucket = {label: str(getattr(cell, label)) for label in labels}
            seconds.add_metric([*self._common.values(), *bucket.values()], cell.steps, cell.seconds)
            contended.append((bucket, float(cell.contended)))
        yield seconds
        yield self._gauge(
            "spec_decode_estimated_speedup",
            "Over steps without drafts, by batch.",
            [({"batch": str(batch)}, value) for batch, value in estimated_speedups(cells).items()],
        )
        yield self._counter("contended_steps", "Steps left out since the CPU was shared.", contended)

    def _counter(self, name: str, text: str, values: Iterable[tuple[dict[str, str], float]]) -> Metric:
        return self._filled(CounterMetricFamily, name, text, values)

    def _gauge(self, name: str, text: str, values: Iterable[tuple[dict[str, str], float]]) -> Metric:
        return self._filled(GaugeMetricFamily, name, text, values)

    def _filled(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        text: str,
        values: Iterable[tuple[dict[str, str], float]],
    ) -> Metric:
        rows = list(values)
        labels = [*self._common, *(rows[0][0] if rows else ())]
        family = kind(f"{self._prefix}:{name}", text, labels=labels)
        for words, value in rows:
            family.add_metric([*self._common.values(), *words.values()], value)
        return family


def _is_held(lowered: LoweredDrafter, *, above: float, upto: float) -> bool:
    """Whether the engine holds it lower at a batch of this row of the table: a bucket begins beyond half its bound."""
    return any(bound > above and bound // 2 < upto for bound in lowered.batches)


def _drafts(drafter: DrafterStats) -> int:
    """Drafts that were verified: those that begin a step's draft have a token at its first position."""
    return drafter.drafted[0] if drafter.drafted else 0
