"""The acceptance length of the service's pool on recorded requests, with and without a candidate head.

Decides who is in that pool, what was answered between the judged requests, and how sure the figures are. What judges
is what serves: answers are replayed through the engine's own pool in order of arrival (speculation/replay.py), so that
choice by expected gain, calibration, continuations and what look-up learned from earlier answers are in the figures.

What differs from serving: every draft is verified whole, since windows give up acceptance length for time, and
acceptance length is what the gate compares; drafting costs nothing; requests come one at a time; capture keeps neither
seeds nor grammars, so answers drawn at a temperature are drafted greedily (serving draws such drafts with the request's
own noise and matches more often) and nothing is forced; draft models are left out, for they would have to run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bowsprit_engine.model_settings import DrafterChoice
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext, Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.replay import Recording, Replay
from bowsprit_engine.speculation.verify import num_leading_equal
from bowsprit_engine.training.data import RequestRows, TokenSequence, newest
from bowsprit_policy.wire import Comparison, DrafterState, DrafterType, Interval

logger = logging.getLogger(__name__)

BOOTSTRAP_SAMPLES = 2000
ROWS_PER_CALL = 64  # rows that a head drafts for in one call
CONFIDENCE = (2.5, 97.5)  # percentiles
MAX_TAUGHT_TOKENS = 200_000  # of the newest requests that aren't judged: twice what look-up keeps, learned in 2 s
LOOK_UPS: dict[DrafterType, Callable[[str], Drafter]] = {
    DrafterType.NGRAM: lambda name: NGramDrafter(name=name),
    DrafterType.SUFFIX: lambda name: SuffixDrafter(name=name),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPool:
    """Who drafts in the service. `beside`: its count-based drafters.

    `draft_tokens`: most tokens of the head's own; `draft_tokens_max`: of a look-up's, and of a draft in all.
    """

    beside: tuple[DrafterChoice, ...]
    draft_tokens: int
    draft_tokens_max: int
    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """`judged`: requests whose steps count. `others`: what else was answered, for look-up to find in its time."""

    judged: Sequence[RequestRows]
    others: Sequence[TokenSequence] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Decode steps that a pool takes for one request, and the tokens that they emit."""

    steps: int
    tokens: int


class PreparedHead:
    """A head's drafts at every decode position of some requests, made many at a time before anybody asks.

    They are what it would say when asked, since a head keeps nothing of a sequence. `drafts[r][i]`: of request `r`,
    after its emitted token i. Requests that aren't among them get nothing, and nobody is given a head's tokens ahead.
    """

    type = DrafterType.HEAD
    reason = ""
    revision: str | None = None

    def __init__(self, name: str, drafts: Mapping[str, Sequence[Draft]]) -> None:
        self.name = name
        self.state = DrafterState.ACTIVE
        self.drafts = drafts

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """Uncut: the pool takes as much as it asked for."""
        return [
            self.drafts[c.request_id][len(c.token_ids) - c.num_prompt_tokens - 1]
            if c.request_id in self.drafts and not c.ahead
            else Draft(token_ids=())
            for c in contexts
        ]

    def forget(self, request_id: str) -> None:
        """Nothing is kept per sequence."""


def prepared(head: Drafter, requests: Sequence[RequestRows], *, draft_tokens: int) -> PreparedHead:
    """Asked at every position with the target's true state there, through the drafter that serves.

    The requests' ids are their places.
    """
    by_request: dict[str, list[Draft]] = {}
    for index, request in enumerate(requests):  # one at a time: states of all of them may be more than memory
        contexts, _ = decode_rows([request], draft_tokens=draft_tokens)
        by_request[f"{index}"] = [
            draft
            for begin in range(0, len(contexts), ROWS_PER_CALL)
            for draft in head.propose(contexts[begin : begin + ROWS_PER_CALL])
        ]
    return PreparedHead(head.name, by_request)


def decode_rows(
    requests: Sequence[RequestRows], *, draft_tokens: int, every: int = 1
) -> tuple[list[DraftContext], list[list[int]]]:
    """What a head is asked at decode positions of the requests, and the tokens that were emitted from there.

    `every`: of so many positions, counted over all requests, the first.
    """
    contexts: list[DraftContext] = []
    continuations: list[list[int]] = []
    position = 0
    for request in requests:
        tokens = request.token_ids.tolist()
        rows = range(-position % every, len(tokens) - 1, every)
        position += len(tokens) - 1
        for row, hidden in zip(rows, request.hidden[list(rows)], strict=True):
            contexts.append(
                DraftContext(
                    request_id="",
                    token_ids=tokens[row : row + 1],
                    hidden=hidden,
                    max_draft_tokens=draft_tokens,
                    seed=0,
                    temperature=0.0,
                )
            )
            continuations.append(tokens[row + 1 : row + 1 + draft_tokens])
    return contexts, continuations


def walks(traffic: Traffic, head: PreparedHead | None, pool: ServedPool) -> list[Walk]:
    """One per judged request, in their order: the pool of count-based drafters and this head, where there is one."""
    drafters = [LOOK_UPS[choice.type](choice.name) for choice in pool.beside]
    caps = {drafter.name: pool.draft_tokens_max for drafter in drafters}
    if head is not None:
        drafters.append(head)
        caps[head.name] = pool.draft_tokens
    steps, tokens = [0] * len(traffic.judged), [0] * len(traffic.judged)
    replay = Replay(DrafterPool(drafters, vocab_size=pool.vocab_size), caps=caps)
    for step in replay.steps(_in_order_of_arrival(traffic)):
        for advance in step.advances:
            steps[int(advance.request_id)] += 1
            tokens[int(advance.request_id)] += advance.num_emitted
    return [Walk(steps=n, tokens=emitted) for n, emitted in zip(steps, tokens, strict=True)]


def acceptance_length(of_requests: Sequence[Walk]) -> float:
    """Tokens per step over all requests."""
    return sum(walk.tokens for walk in of_requests) / sum(walk.steps for walk in of_requests)


def compare_pools(traffic: Traffic, incumbent: Drafter | None, candidate: Drafter, pool: ServedPool) -> Comparison:
    """The pool with the incumbent (without any head, where there is none) and with the candidate."""
    heads = [
        None if head is None else prepared(head, traffic.judged, draft_tokens=pool.draft_tokens)
        for head in (incumbent, candidate)
    ]
    matched = [
        () if head is None else per_position(head, traffic.judged, draft_tokens=pool.draft_tokens) for head in heads
    ]
    for name, rates in zip(("incumbent", "candidate"), matched, strict=True):
        logger.info("%s: matched / reached by position %s", name, " ".join(f"{rate:.0%}" for rate in rates) or "-")
    compared = compare(*(walks(traffic, head, pool) for head in heads))
    return compared.model_copy(update={"per_position": tuple(round(rate, 4) for rate in matched[1])})


def compare(incumbent: Sequence[Walk], candidate: Sequence[Walk], *, seed: int = 0) -> Comparison:
    """Both pools on the same requests. Intervals are bootstrapped over requests, the same draws for both pools."""
    tokens = np.array([walk.tokens for walk in incumbent], dtype=np.float64)
    before = np.array([walk.steps for walk in incumbent], dtype=np.float64)
    after = np.array([walk.steps for walk in candidate], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(tokens), size=(BOOTSTRAP_SAMPLES, len(tokens)))
    sums = tokens[drawn].sum(1), before[drawn].sum(1), after[drawn].sum(1)
    return Comparison(
        incumbent=_interval(tokens.sum() / before.sum(), sums[0] / sums[1], len(tokens)),
        candidate=_interval(tokens.sum() / after.sum(), sums[0] / sums[2], len(tokens)),
        gain=_interval(before.sum() / after.sum() - 1, sums[1] / sums[2] - 1, len(tokens)),
    )


def per_position(head: PreparedHead, requests: Sequence[RequestRows], *, draft_tokens: int) -> tuple[float, ...]:
    """matched at i / reached i of the head's own drafts, over every position at which it proposes.

    Drafts past the answer's end don't count.
    """
    counts = [0] * (draft_tokens + 1)
    for drafts, request in zip(head.drafts.values(), requests, strict=True):
        emitted = request.token_ids.tolist()
        for row, draft in enumerate(drafts):
            if draft.token_ids:
                counts[num_leading_equal(draft.token_ids, emitted[row + 1 :])] += 1
    reached = [sum(counts[i:]) for i in range(draft_tokens + 1)]
    return tuple(reached[i + 1] / reached[i] if reached[i] else 0.0 for i in range(draft_tokens))


def _in_order_of_arrival(traffic: Traffic) -> Iterator[Recording]:
    """Judged requests bear their places as ids; the others only teach."""
    judged = [
        (
            request.arrival,
            Recording(
                request_id=f"{index}",
                prompt_token_ids=request.prompt_token_ids,
                token_ids=tuple(request.token_ids.tolist()),
                tenant=request.tenant,
            ),
        )
        for index, request in enumerate(traffic.judged)
    ]
    others = [
        (
            request.arrival,
            Recording(
                request_id=f"other-{index}",
                prompt_token_ids=request.prompt_token_ids,
                token_ids=request.response_token_ids,
                tenant=request.tenant,
                only_teaches=True,
            ),
        )
        for index, request in enumerate(
            newest(sorted(traffic.others, key=lambda one: one.arrival), max_tokens=MAX_TAUGHT_TOKENS)
        )
    ]
    return (recording for _, recording in sorted([*judged, *others], key=lambda entry: entry[0]))


def _interval(mean: float, samples: NDArray[np.float64], requests: int) -> Interval:
    low, high = np.percentile(samples, CONFIDENCE)
    return Interval(mean=round(float(mean), 4), low=round(float(low), 4), high=round(float(high), 4), requests=requests)
