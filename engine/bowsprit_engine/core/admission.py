"""What a request must satisfy to be taken: everything that can be told before it runs.

Refuses with the value and the limit. Knows neither the queue nor how busy the engine is.
"""

from __future__ import annotations

from collections.abc import Collection

from bowsprit_engine.core.request import Request
from bowsprit_engine.errors import CallerError


def check(request: Request, *, max_model_len: int, vocab_size: int, drafter_names: Collection[str]) -> None:
    """Raises CallerError for a request that can never be served."""
    num_prompt, max_tokens = len(request.prompt_token_ids), request.sampling.max_tokens
    if num_prompt == 0:
        raise CallerError("the prompt is empty, the least is 1 token", param="prompt")
    if max_tokens < 1:
        raise CallerError(f"max_tokens is {max_tokens}, the least is 1", param="max_tokens")
    if num_prompt + max_tokens > max_model_len:
        raise CallerError(
            f"{num_prompt} prompt tokens and max_tokens {max_tokens} make {num_prompt + max_tokens}, "
            f"the model's limit is {max_model_len}",
            param="prompt" if num_prompt >= max_model_len else "max_tokens",
            code="context_length_exceeded",
        )
    sampling = request.sampling
    for param, tokens in (
        ("prompt", request.prompt_token_ids),
        ("logit_bias", sampling.logit_bias),
        ("stop_token_ids", sampling.stop_token_ids),
    ):
        strange = [token for token in tokens if not 0 <= token < vocab_size]
        if strange:
            raise CallerError(f"token {strange[0]} is not within 0 and {vocab_size - 1}", param=param)
    drafter = request.speculation.drafter
    if drafter is not None and drafter not in drafter_names:
        raise CallerError(f"no drafter {drafter!r}, there are {sorted(drafter_names)}", param="speculation.drafter")
