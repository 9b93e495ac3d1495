"""From tokens to text that may be shown: pieces add up, characters are whole, stop strings stay hidden."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from bowsprit_engine.server.text import Detokenizer, StopStrings, quick_decoder
from scripted_engine import byte_tokenizer

TOKENIZER = byte_tokenizer()


def fallback_tokenizer(*, sea: int = 256) -> PreTrainedTokenizerFast:
    """As Llama 2's: token i is byte i, and a run of them decodes as a whole or not at all; a word and a blank too."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256) if byte != sea} | {"▁sea": sea, "▁": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


FALLBACK_TOKENIZER = fallback_tokenizer()


def token_ids_of(words: list[str]) -> list[int]:
    """The fallback tokenizer's."""
    return [token_id for word in words for token_id in ([256] if word == " sea" else word.encode())]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.integers(0, 258), st.sampled_from(list("é🙂日".encode()))), max_size=120))
def test_pieces_and_the_rest_add_up_to_the_decoding_of_all_tokens(token_ids: list[int]) -> None:
    """Whatever the bytes are, broken characters and special tokens included."""
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert "".join(pieces) + detokenizer.flush() == TOKENIZER.decode(token_ids, skip_special_tokens=True)


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet="aé🙂日\n ", max_size=60))
def test_no_piece_of_sound_text_has_a_replacement_character(text: str) -> None:
    """Characters are shown once they are whole, and never later than that."""
    detokenizer = Detokenizer(TOKENIZER)
    shown = ""
    for count, byte in enumerate(text.encode(), start=1):
        shown += detokenizer.push(byte)
        assert shown == text.encode()[:count].decode(errors="ignore")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from("é🙂日本a") | st.just(" sea"), max_size=60))
def test_characters_spelled_in_bytes_are_shown_whole_and_once(words: list[str]) -> None:
    """With byte fallback an unfinished character takes the finished ones before it along, for one token or three."""
    token_ids = token_ids_of(words)
    detokenizer = Detokenizer(FALLBACK_TOKENIZER)
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    assert FALLBACK_TOKENIZER.decode(token_ids) == "".join(pieces) + detokenizer.flush()
    assert "\ufffd" not in "".join(pieces)


@settings(deadline=None, max_examples=60)
@given(*[st.lists(st.sampled_from("é🙂日本a") | st.just(" sea"), max_size=16)] * 2)
def test_a_text_goes_on_with_the_blank_that_its_first_word_has(before: list[str], words: list[str]) -> None:
    """Behind a prompt of any words; SentencePiece's decoder takes the blank away from whatever it sees first."""
    first, then = (
        [t for word in half for t in ([256] if word == " sea" else word.encode())] for half in (before, words)
    )
    detokenizer = Detokenizer(FALLBACK_TOKENIZER, before=first)
    pieces = [detokenizer.push(token_id) for token_id in then]
    text = FALLBACK_TOKENIZER.decode(first) + "".join(pieces) + detokenizer.flush()
    assert FALLBACK_TOKENIZER.decode([*first, *then]) == text


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.text(alphabet="ab", max_size=4), max_size=12),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_what_is_shown_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    """However the text is cut into pieces; without a stop string all of it is shown."""
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(piece) for piece in pieces)
    was_stopped = matcher.is_stopped
    shown += matcher.flush()
    text = "".join(pieces)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert was_stopped == bool(ends)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert ends or shown == text


@given(st.lists(st.integers(0, 258), max_size=20))
def test_the_quick_decoder_says_what_the_tokenizer_says(token_ids: list[int]) -> None:
    """It is the compiled part of the tokenizer, and not the tokenizer itself."""
    decoder = quick_decoder(TOKENIZER)
    assert decoder is not TOKENIZER
    assert decoder.decode(token_ids, skip_special_tokens=True) == TOKENIZER.decode(token_ids, skip_special_tokens=True)


def test_a_tokenizer_that_cleans_its_text_decodes_itself() -> None:
    """The compiled part knows nothing of the spaces that transformers takes out."""
    cleaning = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer, clean_up_tokenization_spaces=True)
    assert quick_decoder(cleaning) is cleaning
