"""Log-probabilities of tokens that are no text of their own: their bytes, their names, where they stand in the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bowsprit_engine.core.request import TokenLogprob
from bowsprit_engine.server.logprobs import CompletionLogprobs, chat_logprobs, token_bytes
from scripted_engine import END, byte_tokenizer
from server.test_text_pieces import FALLBACK_TOKENIZER

TOKENIZER = byte_tokenizer()


def logprobs_of(text: str) -> list[TokenLogprob]:
    """A token per byte."""
    return [TokenLogprob(token_id=byte, logprob=-1.0, top=((byte, -1.0),)) for byte in text.encode()]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, FALLBACK_TOKENIZER], ids=["byte level", "byte fallback"])
def test_every_token_has_its_bytes_parts_of_characters_too(tokenizer: PreTrainedTokenizerFast) -> None:
    """Token i of both tokenizers is byte i."""
    assert [token_bytes(i, tokenizer) for i in range(256)] == [bytes([i]) for i in range(256)]


def test_a_word_has_the_blank_that_its_token_has() -> None:
    """SentencePiece's, which decoding one token alone takes away."""
    assert token_bytes(256, FALLBACK_TOKENIZER) == b" sea"


@given(st.text(alphabet="aé🙂日\n ", max_size=30))
def test_the_bytes_of_a_chat_answers_tokens_are_its_text(text: str) -> None:
    """What OpenAI's clients put characters together from."""
    content = chat_logprobs(logprobs_of(text), TOKENIZER)["content"]
    assert text == b"".join(bytes(entry["bytes"]) for entry in content).decode()


@settings(deadline=None)
@given(st.text(alphabet="aé🙂日\n ", max_size=30), st.integers(1, 7))
def test_offsets_are_those_of_the_characters_that_tokens_are_parts_of(text: str, num_tokens: int) -> None:
    """However many tokens come in a piece."""
    tokens = logprobs_of(text)
    told = CompletionLogprobs(TOKENIZER)
    pieces = [told.take(tokens[i : i + num_tokens]) for i in range(0, len(tokens), num_tokens)]
    expected = [index for index, character in enumerate(text) for _ in character.encode()]
    assert expected == [offset for piece in pieces for offset in piece["text_offset"]]


def test_a_blank_that_is_a_token_of_its_own_takes_a_place() -> None:
    """As Llama 2 writes " 1"; decoded alone it is nothing."""
    tokens = [TokenLogprob(token_id=token_id, logprob=-1.0) for token_id in (256, 257, 49, 256)]
    assert CompletionLogprobs(FALLBACK_TOKENIZER).take(tokens)["text_offset"] == [0, 4, 5, 6]


def test_a_token_that_the_tokenizer_does_not_know_takes_no_place() -> None:
    """Models have rows of logits beyond their vocabulary."""
    tokens = [TokenLogprob(token_id=token_id, logprob=-1.0) for token_id in (97, 100_000, 98)]
    assert CompletionLogprobs(FALLBACK_TOKENIZER).take(tokens)["text_offset"] == [0, 1, 1]


def test_a_token_that_is_no_text_takes_no_place() -> None:
    """An end token in the middle of an answer that ignores it."""
    tokens = [TokenLogprob(token_id=token_id, logprob=-1.0) for token_id in (97, END, 98)]
    told = CompletionLogprobs(TOKENIZER).take(tokens)
    assert (told["tokens"], told["text_offset"]) == (["a", "<|end|>", "b"], [0, 1, 1])


def test_parts_of_characters_have_names_of_their_own_in_text_completions() -> None:
    """Else one of three alternatives would be left, and the least likely one's figure."""
    top = ((0xE6, -0.5), (0xE7, -1.0), (97, -2.0))
    told = CompletionLogprobs(TOKENIZER).take([TokenLogprob(token_id=0xE6, logprob=-0.5, top=top)])
    assert told["tokens"] == ["bytes:\\xe6"]
    assert told["top_logprobs"] == [{"bytes:\\xe6": -0.5, "bytes:\\xe7": -1.0, "a": -2.0}]


def test_of_two_tokens_with_one_name_the_likelier_is_told() -> None:
    """Byte 97 and the letter that it is, in a vocabulary that has both."""
    both = {"<0x61>": 0, "a": 1}

    class Reader:
        def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
            return "a"

        def convert_ids_to_tokens(self, ids: int) -> str:
            return list(both)[ids]

    told = CompletionLogprobs(Reader()).take([TokenLogprob(token_id=1, logprob=-0.5, top=((1, -0.5), (0, -3.0)))])
    assert told["top_logprobs"] == [{"a": -0.5}]
