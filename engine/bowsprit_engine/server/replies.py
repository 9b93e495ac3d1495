"""Answers as OpenAI's clients read them: whole ones, and the chunks of a stream.

Decides JSON shapes only. A reply's `metrics` holds `seed` (of the first choice; the i-th has seed + i) and
`speculative_decoding` with vLLM's keys, summed over the choices.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bowsprit_engine.core.request import FinishReason, RequestMetrics, TokenLogprob
from bowsprit_engine.server.generation import Generation, Piece
from bowsprit_engine.server.logprobs import CompletionLogprobs, TokenReader, chat_logprobs
from bowsprit_engine.server.tool_calls import CallArguments, CallBegins, CallReader, Event, Text
from bowsprit_engine.server.tools import ToolUse

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
    calls: list[dict[str, Any]] = field(default_factory=list)
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
        includes_usage: bool = False,
        use: ToolUse | None = None,
    ) -> None:
        """`includes_usage`: a stream's chunks have a `usage`, null but for the last. `use`: calls that may be made."""
        self._kind = kind
        self._generation = generation
        self._reader = reader
        self._has_logprobs = has_logprobs
        self._includes_usage = includes_usage
        self._use = use
        self._call_readers: dict[int, CallReader] = {}
        self._base = {
            "id": generation.plan.request_id,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._logprobs_of: defaultdict[int, CompletionLogprobs] = defaultdict(lambda: CompletionLogprobs(reader))

    async def whole(self) -> dict[str, Any]:
        """The one answer, once every choice has ended. Raises WorldError as `Generation.pieces` does."""
        choices: dict[int, _Whole] = {}
        async for piece in self._generation.pieces():
            choice = choices.setdefault(piece.index, _Whole())
            for event in self._events(piece):
                _add(event, choice)
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

    def piece_chunks(self, piece: Piece, *, is_last: bool) -> Iterator[dict[str, Any]]:
        """What is new of a choice; nothing while all of it is held back. A stream's last chunk carries `metrics`."""
        contents = [self._content(event) for event in self._events(piece)]
        is_end = piece.finish_reason is not None
        if not contents and (piece.logprobs or is_end):
            contents = [{"delta": {}} if self._is_chat else {"text": ""}]
        for number, content in enumerate(contents, start=1):
            is_final = is_end and number == len(contents)
            reason = self._reason(piece.index, piece.finish_reason) if is_final else None
            chunk = self._chunk(piece.index, content, finish_reason=reason)
            if self._has_logprobs and piece.logprobs and number == 1:
                chunk["choices"][0]["logprobs"] = self._logprobs(piece.index, piece.logprobs)
            yield chunk | {"metrics": self._metrics()} if is_last and is_final else chunk

    def usage_chunk(self) -> dict[str, Any]:
        return {**self._head(is_chunk=True), "choices": [], "usage": self._usage(), "metrics": self._metrics()}

    @property
    def _is_chat(self) -> bool:
        return self._kind == "chat"

    def _events(self, piece: Piece) -> list[Event]:
        """The piece's text, and calls in it where there may be some."""
        if self._use is None:
            return [Text(piece.text)] if piece.text else []
        reader = self._call_readers.get(piece.index)
        if reader is None:
            names = frozenset(tool.function.name for tool in self._use.tools)
            reader = self._call_readers[piece.index] = CallReader(self._use.form, names=names)
        events = reader.push(piece.text)
        return events if piece.finish_reason is None else [*events, *reader.flush()]

    def _content(self, event: Event) -> dict[str, Any]:
        match event:
            case Text(text):
                return {"delta": {"content": text}} if self._is_chat else {"text": text}
            case CallBegins(index, name):
                return {"delta": {"tool_calls": [{"index": index, **_call(name)}]}}
            case CallArguments(index, text):
                return {"delta": {"tool_calls": [{"index": index, "function": {"arguments": text}}]}}

    def _reason(self, index: int, reason: FinishReason | None) -> str | None:
        reader = self._call_readers.get(index)
        if reason is FinishReason.STOP and reader is not None and reader.num_calls:
            return "tool_calls"
        return None if reason is None else reason.value

    def _head(self, *, is_chunk: bool) -> dict[str, Any]:
        return {**self._base, "object": _OBJECTS[self._kind, is_chunk]}

    def _chunk(self, index: int, content: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._includes_usage else {}
        return {**self._head(is_chunk=True), "choices": [choice], **usage}

    def _whole_choice(self, index: int, choice: _Whole) -> dict[str, Any]:
        text = "".join(choice.texts)
        content: dict[str, Any] = {"text": text}
        if self._is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if choice.calls:
                message |= {"content": text or None, "tool_calls": choice.calls}
            content = {"message": message}
        return {
            "index": index,
            **content,
            "logprobs": self._logprobs(index, choice.logprobs) if self._has_logprobs else None,
            "finish_reason": self._reason(index, choice.finish_reason),
        }

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        if self._is_chat:
            return chat_logprobs(tokens, self._reader)
        return self._logprobs_of[index].take(tokens)

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


def _call(name: str) -> dict[str, Any]:
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": ""}}


def _add(event: Event, choice: _Whole) -> None:
    match event:
        case Text(text):
            choice.texts.append(text)
        case CallBegins(_, name):
            choice.calls.append(_call(name))
        case CallArguments(index, text):
            choice.calls[index]["function"]["arguments"] += text


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
