"""Recorded answers through the pool that serves: the steps that serving would have taken, though no model runs.

Verification keeps a draft iff it equals the token that the target draws by itself, so the recorded answer tells what
becomes of any draft. Decides how a stream is replayed: in order of arrival, so many requests at a time, with windows
where step times are given, else with every draft verified whole. Refuses to know torch, files, and what is made of the
steps: what a gate and a tournament count is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.contexts import forced_of
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.proposal import Proposal
from bowsprit_engine.speculation.table import narrowed
from bowsprit_engine.speculation.verify import judge
from bowsprit_engine.speculation.windows import ROWS_PRICED, row_share, windows

StepSeconds = Callable[[int, int], float]  # (sequences, rows) -> seconds of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One answered request. Its first token comes from the prompt's last row and belongs to no decode step.

    `states[i]`: the target's row that emitted `token_ids[i]`, for drafters that begin from it; () where it isn't known.
    `only_teaches`: drafters learn the answer at once, when it arrives; no step of it is replayed.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    states: Sequence[object] = ()
    tenant: str = ""
    grammar: CompiledGrammar | None = None
    only_teaches: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """One request's share of a step."""

    request_id: str
    num_drafted: int
    num_emitted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedStep:
    """`seconds`: what it takes by the step times, None without them.

    `drafting_seconds`: processor time here of asking, choosing, windows, scoring and learning; what a step without
    drafts does too (judging what was drawn, emitting it) is left out.
    """

    advances: tuple[Advance, ...]
    seconds: float | None
    drafting_seconds: float


@dataclass(slots=True, kw_only=True, eq=False)
class _Live:
    """One request under way."""

    recording: Recording
    sequence: LiveSequence

    @property
    def left(self) -> Sequence[int]:
        return self.recording.token_ids[self.sequence.num_emitted :]


class Replay:
    """A pool, and how its drafts are verified. `caps`: most draft tokens by drafter; one that isn't named is mute.

    Raises ValueError for a batch that isn't positive.
    """

    def __init__(
        self,
        pool: DrafterPool,
        *,
        caps: Mapping[str, int],
        batch: int = 1,
        step_seconds: StepSeconds | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}, the least is 1")
        self._pool = pool
        self._caps = caps
        self._batch = batch
        self._step_seconds = step_seconds
        self._curves: dict[int, list[float]] = {}  # by batch, as far as asked: reading them is no part of drafting

    def steps(self, recordings: Iterable[Recording]) -> Iterator[ReplayedStep]:
        """Every decode step of the recordings, which are in order of arrival; the next begins when one has ended."""
        waiting = self._begun(recordings)
        running: list[_Live] = []
        while True:
            while len(running) < self._batch and (live := next(waiting, None)) is not None:
                self._pool.learn(live.sequence)
                running.append(live)
            if not running:
                return
            yield self._step(running)
            for live in [live for live in running if not live.left]:
                running.remove(live)
                self._pool.forget(live.sequence)

    def _begun(self, recordings: Iterable[Recording]) -> Iterator[_Live]:
        for recording in recordings:
            live = _Live(recording=recording, sequence=LiveSequence.begin(_request(recording)))
            if recording.only_teaches:
                live.sequence.token_ids.extend(recording.token_ids)
                self._pool.forget(live.sequence)
            elif len(recording.token_ids) > 1:
                _take(live, recording.token_ids[:1])
                yield live

    def _step(self, running: Sequence[_Live]) -> ReplayedStep:
        begin = time.process_time()
        proposals, seconds = self._verified(running)
        drafting = time.process_time() - begin
        advances = []
        for live, proposal in zip(running, proposals, strict=True):
            length = len(proposal.token_ids)
            verdict = judge(drawn=live.left[: length + 1], draft=proposal.token_ids, stop_token_ids=())
            _take(live, verdict.token_ids)
            advances.append(
                Advance(request_id=live.recording.request_id, num_drafted=length, num_emitted=len(verdict.token_ids))
            )
        begin = time.process_time()
        for live in running:
            self._pool.learn(live.sequence)
        drafting += time.process_time() - begin
        if seconds is not None:
            self._pool.note_step(seconds)
        return ReplayedStep(advances=tuple(advances), seconds=seconds, drafting_seconds=drafting)

    def _verified(self, running: Sequence[_Live]) -> tuple[list[Proposal], float | None]:
        """What is verified of each sequence's draft, and the seconds of such a step."""
        sequences = [live.sequence for live in running]
        caps = [
            narrowed(self._caps, sequence.request.speculation, room=len(live.left) - 1)
            for live, sequence in zip(running, sequences, strict=True)
        ]
        priced = self._curve(len(running), ROWS_PRICED * len(running))
        drafted = self._pool.draft(
            sequences,
            caps,
            forced=forced_of(sequences, caps),
            row_share=0.0 if priced is None else row_share(priced, batch=len(running)),
        ).proposals
        curve = self._curve(len(running), sum(len(proposal.token_ids) for proposal in drafted))
        granted = (
            [len(proposal.token_ids) for proposal in drafted]
            if curve is None
            else windows([proposal.survivals for proposal in drafted], curve, sure_tokens=len(running))
        )
        cut = [proposal.cut(length) for proposal, length in zip(drafted, granted, strict=True)]
        verified = [
            proposal.cut(sequence.num_possible(proposal.token_ids))
            for sequence, proposal in zip(sequences, cut, strict=True)
        ]
        self._pool.grant(sequences, verified)
        rows = sum(len(proposal.token_ids) for proposal in verified)
        return verified, None if curve is None else curve[rows]

    def _curve(self, batch: int, most: int) -> list[float] | None:
        """Seconds with 0, 1, … `most` drafted rows."""
        if self._step_seconds is None:
            return None
        curve = self._curves.setdefault(batch, [])
        for rows in range(len(curve), most + 1):
            curve.append(self._step_seconds(batch, batch + rows))
        return curve[: most + 1]


def _take(live: _Live, token_ids: Sequence[int]) -> None:
    """The target has emitted these."""
    sequence, states = live.sequence, live.recording.states
    sequence.token_ids.extend(token_ids)
    sequence.hidden = states[sequence.num_emitted - 1] if states else None
    if sequence.grammar is not None and live.left:  # what ends an answer is no part of it
        sequence.grammar.advance(token_ids)


def _request(recording: Recording) -> Request:
    return Request(
        request_id=recording.request_id,
        prompt_token_ids=recording.prompt_token_ids,
        sampling=SamplingParams(seed=0, temperature=0.0, max_tokens=len(recording.token_ids)),
        speculation=SpeculationParams(),
        on_output=lambda _: None,
        tenant=recording.tenant,
        grammar=recording.grammar,
    )
