"""From a body's fields to what the engine draws with: defaults, limits that depend on the model, and the seed.

An absent seed is drawn once here, with 53 bits (so that JSON readers in every language keep it exact), and reported.
"""

from __future__ import annotations

import secrets

from bowsprit_engine.core.request import SamplingParams, SpeculationParams
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.wire import ChatBody, CompletionBody, GenerationBody

COMPLETION_MAX_TOKENS = 16  # OpenAI's default for text completions; chat goes on to the context's end
SEED_BITS_DRAWN = 53
LEAST_TEMPERATURE = 1e-4  # below, logits / temperature leave float32: greedy is what is meant


def sampling_params(
    body: ChatBody | CompletionBody, *, longest_prompt: int, max_model_len: int, vocab_size: int
) -> SamplingParams:
    """Raises CallerError naming field, value and limit. `longest_prompt` in tokens."""
    temperature = 1.0 if body.temperature is None else body.temperature
    max_tokens = _max_tokens(body, longest_prompt=longest_prompt, max_model_len=max_model_len)
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise CallerError(f"min_tokens is {min_tokens}, the limit is max_tokens, {max_tokens}", param="min_tokens")
    return SamplingParams(
        seed=(secrets.randbits(SEED_BITS_DRAWN) if body.seed is None else body.seed) % 2**64,
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_k=min(max(body.top_k or 0, 0), vocab_size),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        logit_bias=_logit_bias(body, vocab_size),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_token_ids=frozenset(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        num_logprobs=_num_logprobs(body, vocab_size),
    )


def speculation_params(body: GenerationBody) -> SpeculationParams:
    asked = body.speculation
    if asked is None:
        return SpeculationParams()
    return SpeculationParams(
        enabled=asked.mode == "auto", max_draft_tokens=asked.max_draft_tokens, drafter=asked.drafter
    )


def _max_tokens(body: ChatBody | CompletionBody, *, longest_prompt: int, max_model_len: int) -> int:
    room = max_model_len - longest_prompt
    if room < 1:
        raise CallerError(
            f"the prompt has {longest_prompt} tokens, the model's limit is {max_model_len}, "
            "with at least 1 of the answer",
            param="messages" if isinstance(body, ChatBody) else "prompt",
            code="context_length_exceeded",
        )
    name, asked = "max_tokens", body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        name, asked = "max_completion_tokens", body.max_completion_tokens
    if asked is None:
        return room if isinstance(body, ChatBody) else min(room, COMPLETION_MAX_TOKENS)
    if asked > room:
        raise CallerError(
            f"{name} is {asked}, the limit is {room}: the prompt has {longest_prompt} of the model's "
            f"{max_model_len} tokens",
            param=name,
            code="context_length_exceeded",
        )
    return asked


def _logit_bias(body: GenerationBody, vocab_size: int) -> dict[int, float]:
    bias = {int(key): value for key, value in (body.logit_bias or {}).items()}
    strange = [token_id for token_id in bias if token_id >= vocab_size]
    if strange:
        raise CallerError(
            f"logit_bias: token {strange[0]} is not in the vocabulary, the limit is {vocab_size - 1}",
            param="logit_bias",
        )
    return bias


def _num_logprobs(body: ChatBody | CompletionBody, vocab_size: int) -> int | None:
    if isinstance(body, CompletionBody):
        return None if body.logprobs is None else min(body.logprobs, vocab_size)
    if not body.logprobs:
        if body.top_logprobs:
            raise CallerError(
                f"top_logprobs is {body.top_logprobs}, which needs logprobs to be true", param="top_logprobs"
            )
        return None
    return min(body.top_logprobs or 0, vocab_size)
