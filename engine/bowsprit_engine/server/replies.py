"""Answers as OpenAI's clients read them: whole ones, and the chunks of a stream.

Decides JSON shapes only. A reply's `metrics` holds `seed` (of the first choice; the i-th has seed + i) and
`speculative_decoding` with vLLM's keys, summed over the choices.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bowsprit_engine.core.request import FinishReason, RequestMetrics, TokenLogprob
from bowsprit_engine.server.generation import Generation, Piece
from bowsprit_engine.server.logprobs import TokenReader, chat_logprobs, completion_logprobs

Kind = Literal["chat", "completion"]
_OBJECTS = {
    ("chat", False): "chat.completion",
    ("chat", True): "chat.completion.chunk",
    ("completion", False): "text_completion",
    ("completion", True): "text_completion",
}


@dataclass(slots=True, kw_only=True)
class _Whole:
    """One choice of an answer that isn't streamed."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Replies:
    """Shapes of the answers to one request."""

    def __init__(
        self,
        kind: Kind,
        generation: Generation,
        *,
        model: str,
        fingerprint: str,
        reader: TokenReader,
        has_logprobs: bool,
    ) -> None:
        self._kind = kind
        self._generation = generation
        self._reader = reader
        self._has_logprobs = has_logprobs
        self._base = {
            "id": generation.plan.request_id,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._offsets: dict[int, int] = {}

    async def whole(self) -> dict[str, Any]:
        """The one answer, once every choice has ended. Raises WorldError as `Generation.pieces` does."""
        choices: dict[int, _Whole] = {}
        async for piece in self._generation.pieces():
            choice = choices.setdefault(piece.index, _Whole())
            choice.texts.append(piece.text)
            choice.logprobs += piece.logprobs
            choice.finish_reason = piece.finish_reason or choice.finish_reason
        return {
            **self._head(is_chunk=False),
            "choices": [self._whole_choice(index, choices[index]) for index in sorted(choices)],
            "usage": self._usage(),
            "metrics": self._metrics(),
        }

    def role_chunk(self, index: int) -> dict[str, Any]:
        """The first chunk of a chat choice."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}})

    def piece_chunk(self, piece: Piece, *, is_last: bool) -> dict[str, Any]:
        """A piece of text. The last chunk of a stream carries `metrics`."""
        content = {"delta": {"content": piece.text} if piece.text else {}} if self._is_chat else {"text": piece.text}
        chunk = self._chunk(piece.index, content, finish_reason=piece.finish_reason)
        if self._has_logprobs and piece.logprobs:
            chunk["choices"][0]["logprobs"] = self._logprobs(piece.index, piece.logprobs)
        return chunk | {"metrics": self._metrics()} if is_last else chunk

    def usage_chunk(self) -> dict[str, Any]:
        return {**self._head(is_chunk=True), "choices": [], "usage": self._usage(), "metrics": self._metrics()}

    @property
    def _is_chat(self) -> bool:
        return self._kind == "chat"

    def _head(self, *, is_chunk: bool) -> dict[str, Any]:
        return {**self._base, "object": _OBJECTS[self._kind, is_chunk]}

    def _chunk(self, index: int, content: dict[str, Any], finish_reason: FinishReason | None = None) -> dict[str, Any]:
        reason = None if finish_reason is None else finish_reason.value
        return {
            **self._head(is_chunk=True),
            "choices": [{"index": index, **content, "logprobs": None, "finish_reason": reason}],
        }

    def _whole_choice(self, index: int, choice: _Whole) -> dict[str, Any]:
        text = "".join(choice.texts)
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if self._is_chat else {"text": text}
        )
        return {
            "index": index,
            **content,
            "logprobs": self._logprobs(index, choice.logprobs) if self._has_logprobs else None,
            "finish_reason": None if choice.finish_reason is None else choice.finish_reason.value,
        }

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        if self._is_chat:
            return chat_logprobs(tokens, self._reader)
        shape = completion_logprobs(tokens, self._reader, offset=self._offsets.get(index, 0))
        self._offsets[index] = self._offsets.get(index, 0) + sum(len(text) for text in shape["tokens"])
        return shape

    def _usage(self) -> dict[str, Any]:
        prompt, totals = self._generation.num_prompt_tokens, self._generation.totals
        return {
            "prompt_tokens": prompt,
            "completion_tokens": totals.completion_tokens,
            "total_tokens": prompt + totals.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(totals.cached_by_prompt.values())},
        }

    def _metrics(self) -> dict[str, Any]:
        return {
            "seed": self._generation.plan.sampling.seed,
            "speculative_decoding": speculative_decoding(self._generation.totals.metrics),
        }


def speculative_decoding(parts: Sequence[RequestMetrics]) -> dict[str, Any]:
    """vLLM's keys, and `num_steps`: all decode steps, those without a draft too.

    `mean_acceptance_length` is per step with a draft, the bonus token included; None where there was none.
    """
    steps = sum(part.num_spec_steps for part in parts)
    drafted = sum(part.num_draft_tokens for part in parts)
    accepted = sum(part.num_accepted_draft_tokens for part in parts)
    length = max((len(part.acceptance_histogram) for part in parts), default=0)
    histogram = [
        sum(part.acceptance_histogram[i] for part in parts if i < len(part.acceptance_histogram)) for i in range(length)
    ]
    return {
        "mean_acceptance_length": 1.0 + accepted / steps if steps else None,
        "draft_acceptance_rate": accepted / drafted if drafted else None,
        "acceptance_histogram": histogram,
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "num_steps": sum(part.num_steps for part in parts),
    }
