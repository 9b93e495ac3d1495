"""What a step's drawn tokens do to one sequence: its new tokens, its end if it ends, and what its client is told.

Decides when a sequence is finished. Knows neither the queue nor drafters.
"""

from __future__ import annotations

from dataclasses import dataclass

from bowsprit_engine.core.batch import StepRows
from bowsprit_engine.core.request import FinishedRequest, FinishReason, StepOutput
from bowsprit_engine.core.runner import ModelOutput
from bowsprit_engine.core.sampling import Drawn, DrawRows, Fault, Sampler, target_logprobs
from bowsprit_engine.core.scheduler import StepPlan
from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.verify import Verdict, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """One sequence's share of a step."""

    sequence: LiveSequence
    verdict: Verdict
    output: StepOutput


class Committer:
    """Applies drawn tokens to sequences. `max_model_len` ends a sequence as max_tokens does."""

    def __init__(self, *, sampler: Sampler, max_model_len: int) -> None:
        self._sampler = sampler
        self._max_model_len = max_model_len

    def commit_all(self, plan: StepPlan, *, rows: StepRows, output: ModelOutput, drawn: Drawn) -> list[Committed]:
        """A step ran: its prompts are computed so far, and whoever has logits emits. Decoding sequences come first."""
        for chunk in plan.prefills:
            chunk.sequence.num_computed += chunk.num_tokens
        return [self.commit(group, rows=rows, output=output, drawn=drawn) for group in rows.draws]

    def commit(self, group: DrawRows, *, rows: StepRows, output: ModelOutput, drawn: Drawn) -> Committed:
        """Judge the group's drafts and append what its sequence emits."""
        sequence, first = group.sequence, group.first_row
        sampling = sequence.request.sampling
        end = first + group.num_rows
        verdict = judge(
            drawn=drawn.token_ids[first:end],
            draft=group.draft,
            stop_token_ids=self._sampler.stop_token_ids(sequence.request),
        )
        for index in range(len(verdict.token_ids)):
            if first + index in drawn.faults:
                return self._end_in_error(sequence, verdict, num_good=index, fault=drawn.faults[first + index])
        sequence.token_ids.extend(verdict.token_ids)
        sequence.num_computed = len(sequence.token_ids) - 1
        sequence.hidden = output.hidden[rows.row_of_logit[first + len(verdict.token_ids) - 1]].clone()
        logprobs = None
        if sampling.num_logprobs is not None:
            logprobs = target_logprobs(
                output.logits, first_row=first, token_ids=verdict.token_ids, num_top=sampling.num_logprobs
            )
        reason = self._finish_reason(sequence, verdict)
        if sequence.grammar is not None and reason is None:
            sequence.grammar.advance(verdict.token_ids)
        step_output = StepOutput(
            request_id=sequence.request_id, token_ids=verdict.token_ids, logprobs=logprobs, finish_reason=reason
        )
        return Committed(sequence=sequence, verdict=verdict, output=step_output)

    def _finish_reason(self, sequence: LiveSequence, verdict: Verdict) -> FinishReason | None:
        if verdict.is_stopped:
            return FinishReason.STOP
        is_full = sequence.num_emitted >= sequence.request.sampling.max_tokens
        if is_full or len(sequence.token_ids) >= self._max_model_len:
            return FinishReason.LENGTH
        return None

    def _end_in_error(self, sequence: LiveSequence, verdict: Verdict, *, num_good: int, fault: Fault) -> Committed:
        good = verdict.token_ids[:num_good]
        sequence.token_ids.extend(good)
        output = StepOutput(
            request_id=sequence.request_id,
            token_ids=good,
            finish_reason=FinishReason.ERROR,
            error=fault.message,
            error_code=fault.code,
        )
        cut = Verdict(
            token_ids=good,
            num_accepted=min(verdict.num_accepted, num_good),
            num_reached=min(verdict.num_reached, num_good),
            is_stopped=True,
        )
        return Committed(sequence=sequence, verdict=cut, output=output)


def finished_request(sequence: LiveSequence, reason: FinishReason) -> FinishedRequest:
    """What is kept of a sequence that ended."""
    request = sequence.request
    return FinishedRequest(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        response_token_ids=tuple(sequence.token_ids[sequence.num_prompt_tokens :]),
        accepted_counts=tuple(sequence.accepted_counts),
        drafter_names=tuple(sequence.drafter_names),
        finish_reason=reason,
        tenant=request.tenant,
        capture_allowed=request.capture_allowed,
        temperature=request.sampling.temperature,
    )
