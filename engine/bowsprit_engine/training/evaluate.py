"""The acceptance length of a drafter pool on recorded requests, with and without a candidate head.

Decides how a recorded answer is walked and how sure the figures are. Since verification keeps a draft iff it equals the
token that the target draws by itself, replaying the drafters against the recorded tokens gives exactly the steps that
serving would have taken; no model runs. (One approximation: requests recorded at a temperature above 0 are drafted
greedily, since capture keeps no seed; serving draws such drafts with the request's own noise and matches more often.)

Words: `matches[i]` of a row is the number of drafted tokens that equal what the target emitted next; a request's walk
begins after its first token, which comes from the prompt's last row and belongs to no decode step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bowsprit_engine.speculation.drafters.base import DraftContext, Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.training.data import RequestFeatures
from bowsprit_policy.wire import Comparison, Interval

logger = logging.getLogger(__name__)

BOOTSTRAP_SAMPLES = 2000
ROWS_PER_CALL = 64  # rows that a head drafts for in one call
CONFIDENCE = (2.5, 97.5)  # percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """What one drafter would have got at every decode position of one request; None where it proposes nothing."""

    per_row: tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Decode steps that a pool takes for one request, and the tokens that they emit."""

    steps: int
    tokens: int


def ngram_matches(request: RequestFeatures, *, draft_tokens: int) -> Matches:
    """The n-gram drafter's, asked at every position in turn."""
    drafter = NGramDrafter(name="ngram")
    tokens = [*request.prompt_token_ids, *request.token_ids.tolist()]
    per_row: list[int | None] = []
    for position in range(len(request.prompt_token_ids) + 1, len(tokens)):
        context = _context(tokens[:position], None, draft_tokens)
        per_row.append(_num_matching(drafter.propose([context])[0].token_ids, tokens[position:]))
    return Matches(per_row=tuple(per_row))


def head_matches(drafter: Drafter, requests: Sequence[RequestFeatures], *, draft_tokens: int) -> list[Matches]:
    """A head's, asked at every position with the target's true state there, through the drafter that serves."""
    contexts, continuations = decode_rows(requests, draft_tokens=draft_tokens)
    drafts = [
        draft.token_ids
        for begin in range(0, len(contexts), ROWS_PER_CALL)
        for draft in drafter.propose(contexts[begin : begin + ROWS_PER_CALL])
    ]
    rows = iter([_num_matching(d, c) for d, c in zip(drafts, continuations, strict=True)])
    return [Matches(per_row=tuple(next(rows) for _ in range(len(r.token_ids) - 1))) for r in requests]


def decode_rows(
    requests: Sequence[RequestFeatures], *, draft_tokens: int
) -> tuple[list[DraftContext], list[list[int]]]:
    """What a head is asked at every decode position of the requests, and the tokens that were emitted from there."""
    contexts: list[DraftContext] = []
    continuations: list[list[int]] = []
    for request in requests:
        tokens = [*request.prompt_token_ids, *request.token_ids.tolist()]
        for row in range(len(request.token_ids) - 1):
            position = len(request.prompt_token_ids) + row + 1
            contexts.append(_context(tokens[position - 1 : position], request.hidden[row], draft_tokens))
            continuations.append(tokens[position : position + draft_tokens])
    return contexts, continuations


def no_matches(requests: Sequence[RequestFeatures]) -> list[Matches]:
    """Of a drafter that isn't there."""
    return [Matches(per_row=(None,) * (len(request.token_ids) - 1)) for request in requests]


def walk(first: Matches, second: Matches) -> Walk:
    """The steps of a pool that asks `first`, and `second` where it proposes nothing."""
    position, steps = 0, 0
    while position < len(first.per_row):
        matching = first.per_row[position]
        if matching is None:
            matching = second.per_row[position]
        position += (matching or 0) + 1
        steps += 1
    return Walk(steps=steps, tokens=len(first.per_row))


def acceptance_length(walks: Sequence[Walk]) -> float:
    """Tokens per step over all requests."""
    return sum(walk.tokens for walk in walks) / sum(walk.steps for walk in walks)


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


def compare_pools(
    requests: Sequence[RequestFeatures], incumbent: Drafter | None, candidate: Drafter, *, draft_tokens: int
) -> Comparison:
    """n-gram where it matches, else the head: with the incumbent (nobody, where there is none), with the candidate."""
    ngram = [ngram_matches(request, draft_tokens=draft_tokens) for request in requests]
    before = no_matches(requests) if incumbent is None else head_matches(incumbent, requests, draft_tokens=draft_tokens)
    after = head_matches(candidate, requests, draft_tokens=draft_tokens)
    for name, matches in (("n-gram", ngram), ("incumbent", before), ("candidate", after)):
        rates = " ".join(f"{rate:.0%}" for rate in per_position(matches, draft_tokens=draft_tokens))
        logger.info("%s: matched / reached by position %s", name, rates)
    compared = compare(
        [walk(first, second) for first, second in zip(ngram, before, strict=True)],
        [walk(first, second) for first, second in zip(ngram, after, strict=True)],
    )
    matched = tuple(round(rate, 4) for rate in per_position(after, draft_tokens=draft_tokens))
    return compared.model_copy(update={"per_position": matched})


def per_position(matches: Sequence[Matches], *, draft_tokens: int) -> list[float]:
    """matched at i / reached i over every row at which the drafter proposes."""
    counts = [0] * (draft_tokens + 1)
    for request in matches:
        for matching in request.per_row:
            if matching is not None:
                counts[matching] += 1
    reached = [sum(counts[i:]) for i in range(draft_tokens + 1)]
    return [reached[i + 1] / reached[i] if reached[i] else 0.0 for i in range(draft_tokens)]


def _interval(mean: float, samples: NDArray[np.float64], requests: int) -> Interval:
    low, high = np.percentile(samples, CONFIDENCE)
    return Interval(mean=round(float(mean), 4), low=round(float(low), 4), high=round(float(high), 4), requests=requests)


def _num_matching(draft: Sequence[int], emitted: Sequence[int]) -> int | None:
    """Leading drafts that equal what was emitted; None for no proposal. Drafts past the answer's end don't count."""
    if not draft:
        return None
    for count, (proposed, token) in enumerate(zip(draft, emitted, strict=False)):
        if proposed != token:
            return count
    return min(len(draft), len(emitted))


def _context(token_ids: Sequence[int], hidden: object | None, draft_tokens: int) -> DraftContext:
    return DraftContext(
        request_id="", token_ids=token_ids, hidden=hidden, max_draft_tokens=draft_tokens, seed=0, temperature=0.0
    )
