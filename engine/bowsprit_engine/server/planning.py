"""From a checked body and its prompts to what is generated: the answer's grammar and the plan.

Decides which combinations of fields are refused. Refuses to know HTTP and how answers look.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.generation import Plan
from bowsprit_engine.server.lifecycle import Served
from bowsprit_engine.server.sampling import sampling_params, speculation_params
from bowsprit_engine.server.structured import Structure, has_form, structure_of
from bowsprit_engine.server.tools import ToolUse, call_structure
from bowsprit_engine.server.wire import MAX_CHOICES, ChatBody, CompletionBody


async def grammar_of(
    body: ChatBody | CompletionBody, headers: Mapping[str, str], served: Served, use: ToolUse | None
) -> CompiledGrammar | None:
    """What the answer must keep to, None for nothing.

    Calls that may be made, but needn't, are not held to schemas that can't be executed: free text is allowed then, and
    so is a call with other arguments. Raises CallerError for a form that was promised and can't be kept.
    """
    is_promised = has_form(body) or (use is not None and use.must_call)
    if body.ignore_eos and is_promised:
        raise CallerError("ignore_eos can't be combined with an answer's form: its end ends it", param="ignore_eos")
    if body.ignore_eos or (use is None and not is_promised):
        return None

    def structure() -> Structure | None:
        answer = structure_of(body)
        return answer if use is None else call_structure(use, answer)

    tenant = served.capture.tenant(headers, user=body.user)
    try:
        return await served.grammars.compile(structure, tenant=tenant, names_place=is_promised)
    except CallerError:
        if is_promised:
            raise
        return None


def plan_of(
    body: ChatBody | CompletionBody,
    headers: Mapping[str, str],
    served: Served,
    *,
    prompts: list[tuple[int, ...]],
    prefix: str,
    grammar: CompiledGrammar | None,
) -> Plan:
    """`prefix`: of the request's id. Raises CallerError for more choices, other tokens or longer prompts than go."""
    n, most = body.n or 1, min(MAX_CHOICES, served.max_requests)
    if len(prompts) * n > most:
        raise CallerError(f"n is {n}, the limit is {most} choices over all {len(prompts)} prompts", param="n")
    for prompt in prompts:
        _check_tokens(prompt, served.vocab_size, "messages" if isinstance(body, ChatBody) else "prompt")
    sampling = sampling_params(
        body,
        longest_prompt=max(len(prompt) for prompt in prompts),
        max_model_len=served.max_model_len,
        vocab_size=served.vocab_size,
    )
    return Plan(
        request_id=f"{prefix}-{secrets.token_hex(12)}",
        prompts=prompts,
        n=n,
        sampling=sampling,
        speculation=speculation_params(body),
        grammar=grammar,
        stops=body.stop_texts,
        goes_on=isinstance(body, CompletionBody),
        tenant=served.capture.tenant(headers, user=body.user),
        capture_allowed=served.capture.is_allowed(headers),
    )


def _check_tokens(prompt: tuple[int, ...], vocab_size: int, param: str) -> None:
    if not prompt:
        raise CallerError(f"{param}: the prompt is empty, the least is 1 token", param=param)
    largest = max(prompt)
    if largest >= vocab_size:
        raise CallerError(
            f"{param}: token {largest} is not in the vocabulary, the limit is {vocab_size - 1}", param=param
        )
