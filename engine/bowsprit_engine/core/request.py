"""What a request is while it is being served: values that the server makes and the scheduler and step consume.

Knows neither HTTP nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bowsprit_engine.core.grammar import CompiledGrammar


class FinishReason(StrEnum):
    """Why a sequence ended, in OpenAI's words; `error` ends one whose logits were not finite."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn. `seed` is always present: an absent one is drawn once by the server and reported.

    temperature 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. Penalties follow OpenAI and vLLM.
    `stop_token_ids` end the sequence (the token is emitted and counted, its text isn't); stop
    strings are the server's work.
    """

    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    max_tokens: int = 128
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    num_logprobs: int | None = None  # None: no logprobs; 0: of the chosen token only


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationParams:
    """The request's own limits on speculation. They can only narrow what the table allows."""

    enabled: bool = True
    max_draft_tokens: int | None = None
    drafter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Target log-probability of an emitted token, and of the most likely ones at its position."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMetrics:
    """Speculation figures of one request, with vLLM's keys. histogram[i]: verify steps that accepted i drafts.

    `num_cached_tokens`: tokens of the prompt whose KV the prefix cache had.
    """

    num_spec_steps: int
    num_draft_tokens: int
    num_accepted_draft_tokens: int
    acceptance_histogram: tuple[int, ...]
    num_steps: int
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What one step adds to one request. The last one has a finish_reason and metrics.

    `error_code`: grammar.FAILED where the request's own grammar is why it ended in an error, sampling.NOT_FINITE's
    where the model's logits are.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None
    error_code: str | None = None
    metrics: RequestMetrics | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate. `on_output` is called from the engine's thread: it must be quick and not raise."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    speculation: SpeculationParams
    on_output: Callable[[StepOutput], None]
    grammar: CompiledGrammar | None = None  # what the output must keep to; an end token ends it, ignore_eos or not
    tenant: str = ""
    capture_allowed: bool = True
    arrival_seconds: float = 0.0  # time.monotonic() at arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRequest:
    """What is known of a request when it ended, for traffic capture and metrics.

    `accepted_counts` and `drafter_names` are per decode step: drafts accepted (the bonus excluded) and who drafted
    ("" where nobody did). The first token comes from the prompt's last row and belongs to no decode step.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    response_token_ids: tuple[int, ...]
    accepted_counts: tuple[int, ...]
    drafter_names: tuple[str, ...]
    finish_reason: FinishReason
    tenant: str
    capture_allowed: bool
    temperature: float
