"""From token ids to text that may be shown: whole characters only, and nothing of a stop string.

Decides how much of the text is certain. Refuses to know requests and responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

UNFINISHED = "\ufffd"
WINDOW = 16  # tokens decoded again for each new one
OVERLAP = 6  # tokens that stay when the window moves, at least
CHARACTER_TOKENS = 4  # that one character may span, a byte each


class Decoder(Protocol):
    """The part of a transformers tokenizer that is used here."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


def quick_decoder(tokenizer: Any) -> Decoder:
    """Of a transformers tokenizer the compiled one below it, where transformers adds nothing: half the time per token.

    By its attributes, since importing transformers takes longer than a port may be shut.
    """
    compiled = getattr(tokenizer, "backend_tokenizer", None)
    adds_nothing = compiled is not None and not tokenizer.clean_up_tokenization_spaces
    return cast("Decoder", compiled if adds_nothing else tokenizer)


class Detokenizer:
    """Text of a growing sequence, character by character certain.

    Bytes that don't make a character yet decode to U+FFFD, one or one for each (with byte fallback even for the whole
    characters before them), so all of those at the end are held back. A short window is decoded per token. Pieces and
    `flush` add up to the decoding of all.
    """

    def __init__(self, decoder: Decoder, *, before: Sequence[int] = ()) -> None:
        """`before`: tokens whose text this continues. Decoded without them, SentencePiece's first word has no blank."""
        self._decoder = decoder
        self._window = self._end_of(before)
        self._shown = len(self._text(self._window).rstrip(UNFINISHED))  # characters of the window that were given out

    def push(self, token_id: int) -> str:
        """The text that has become certain with this token."""
        if len(self._window) >= WINDOW:
            self._move()
        self._window.append(token_id)
        certain = self._text(self._window).rstrip(UNFINISHED)
        piece = certain[self._shown :]
        self._shown = max(self._shown, len(certain))
        return piece

    def flush(self) -> str:
        """What is left when no token follows: U+FFFD for a character that stayed unfinished."""
        piece = self._text(self._window)[self._shown :]
        self._shown += len(piece)
        return piece

    def _move(self) -> None:
        """Drop tokens whose text is out, at a place where the others decode without them as they do with them."""
        text = self._text(self._window)
        if self._shown != len(text):
            return
        for overlap in range(OVERLAP, OVERLAP + CHARACTER_TOKENS):
            tail = self._text(self._window[-overlap:])
            if text.endswith(tail) and not tail.startswith(UNFINISHED):
                self._window, self._shown = self._window[-overlap:], len(tail)
                return

    def _end_of(self, token_ids: Sequence[int]) -> list[int]:
        """The last tokens, from where a character begins; none where that can't be told."""
        ends = (list(token_ids[-overlap:]) for overlap in range(OVERLAP, OVERLAP + CHARACTER_TOKENS))
        return next((end for end in ends if not self._text(end).startswith(UNFINISHED)), [])

    def _text(self, token_ids: Sequence[int]) -> str:
        return self._decoder.decode(token_ids, skip_special_tokens=True)


class StopStrings:
    """Holds back whatever may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """What of the text so far may be shown; after a stop string, nothing more."""
        if self.is_stopped:
            return ""
        text = self._held + text
        found = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back in vain, when no text follows."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
