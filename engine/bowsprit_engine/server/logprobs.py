"""Log-probabilities in the two shapes that OpenAI's clients read.

Decides how a token is written that is only a part of a character, and where it stands in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from bowsprit_engine.core.request import TokenLogprob
from bowsprit_engine.server.text import UNFINISHED

LEAST_LOGPROB = -9999.0  # JSON has no -inf
BLANK = "▁"  # SentencePiece's
_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


class TokenReader(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def convert_ids_to_tokens(self, ids: int) -> str | None: ...


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


class CompletionLogprobs:
    """`choices[].logprobs` of a text completion, piece by piece: `text_offset` goes on where the last piece ended."""

    def __init__(self, reader: TokenReader) -> None:
        self._reader = reader
        self._num_begun = 0  # characters of the text, the last of which may be unfinished

    def take(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {
            "tokens": [_name(token.token_id, self._reader) for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [_alternatives(token, self._reader) for token in tokens],
            "text_offset": [self._offset(token.token_id) for token in tokens],
        }

    def _offset(self, token_id: int) -> int:
        """The character that a token begins in, from 0."""
        text, text_or_name = (self._reader.decode([token_id], skip_special_tokens=skips) for skips in (True, False))
        written = token_bytes(token_id, self._reader)
        if not written or (not text and text_or_name):  # a lone blank of SentencePiece is neither
            return self._num_begun
        is_inside = _continues(written[0]) and self._num_begun > 0
        offset = self._num_begun - is_inside
        self._num_begun += sum(not _continues(byte) for byte in written)
        return offset


def token_bytes(token_id: int, reader: TokenReader) -> bytes:
    """What a token adds to a text, parts of characters and leading blanks included."""
    token = reader.convert_ids_to_tokens(token_id) or ""
    if token.startswith(BLANK):
        return token.replace(BLANK, " ").encode()
    text = reader.decode([token_id], skip_special_tokens=False)
    fallback = _FALLBACK.fullmatch(token)
    if fallback is not None and text != token:
        return bytes.fromhex(fallback[1])
    if UNFINISHED not in text:
        return text.encode()
    byte_of = _byte_of_letter()
    return bytes(byte_of[letter] for letter in token) if all(map(byte_of.__contains__, token)) else text.encode()


@cache
def _byte_of_letter() -> Mapping[str, int]:
    """Of byte-level vocabularies, GPT-2's and those after it."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # seconds, and not before the ports answer

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def _entry(token_id: int, logprob: float, reader: TokenReader) -> dict[str, Any]:
    written = token_bytes(token_id, reader)
    return {"token": written.decode(errors="replace"), "logprob": _finite(logprob), "bytes": list(written)}


def _alternatives(token: TokenLogprob, reader: TokenReader) -> dict[str, float]:
    """By name; of two tokens with one name the likelier, which comes first."""
    named: dict[str, float] = {}
    for token_id, logprob in token.top:
        named.setdefault(_name(token_id, reader), _finite(logprob))
    return named


def _name(token_id: int, reader: TokenReader) -> str:
    """A token's text; of a part of a character its bytes, as OpenAI writes them: this shape has no other place."""
    written = token_bytes(token_id, reader)
    try:
        return written.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)


def _continues(byte: int) -> bool:
    """Whether a byte of UTF-8 goes on with a character."""
    return byte & 0xC0 == 0x80


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
