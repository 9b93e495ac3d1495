"""Log-probabilities in the two shapes that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from bowsprit_engine.core.request import TokenLogprob

LEAST_LOGPROB = -9999.0  # JSON has no -inf


class TokenReader(Protocol):
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


def chat_logprobs(tokens: Sequence[TokenLogprob], reader: TokenReader) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion."""
    return {
        "content": [
            {
                **_entry(token.token_id, token.logprob, reader),
                "top_logprobs": [_entry(token_id, logprob, reader) for token_id, logprob in token.top],
            }
            for token in tokens
        ]
    }


def completion_logprobs(tokens: Sequence[TokenLogprob], reader: TokenReader, *, offset: int) -> dict[str, Any]:
    """`choices[].logprobs` of a text completion; `offset` is where the first token's text begins."""
    texts = [_text(token.token_id, reader) for token in tokens]
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {_text(token_id, reader): _finite(logprob) for token_id, logprob in token.top} for token in tokens
        ],
        "text_offset": offsets[: len(texts)],
    }


def _entry(token_id: int, logprob: float, reader: TokenReader) -> dict[str, Any]:
    text = _text(token_id, reader)
    is_whole = "\ufffd" not in text
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode()) if is_whole else None}


def _text(token_id: int, reader: TokenReader) -> str:
    return reader.decode([token_id], skip_special_tokens=False)


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
