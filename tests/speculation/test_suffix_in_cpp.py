"""Look-up in C++ says what look-up in Python says, bit by bit, is told in small pieces, and keeps what was planned."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.drafters.suffix_in_cpp import BYTES_PER_TOKEN, MOST_UNTOLD, SuffixInCpp
from bowsprit_engine.speculation.drafters.suffix_in_python import SuffixInPython
from draft_contexts import draft_context

KEPT = 100_000  # tokens
NUMBERS = count()


@dataclass(kw_only=True)
class Text:
    """One sequence of a random service."""

    request_id: str
    tenant: str
    num_prompt: int
    tokens: list[int] = field(default_factory=list)

    def asked(self, **changes):
        return draft_context(
            list(self.tokens),
            request_id=self.request_id,
            tenant=self.tenant,
            num_prompt_tokens=self.num_prompt,
            **changes,
        )


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=24)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(["", "one", "two", "a\0", "a"]), tokens),
        st.tuples(st.just("emit"), st.integers(0, 9), tokens),
        st.tuples(st.just("take"), st.integers(0, 9), st.integers(0, 9)),  # so many of what was drafted
        st.tuples(st.just("ask"), st.integers(1, 40), st.lists(st.integers(0, 3), max_size=5)),
        st.tuples(st.just("ask untold"), st.integers(0, 9), tokens),
        st.tuples(st.just("end"), st.integers(0, 9), st.none()),
    ),
    max_size=60,
)


class Service:
    """Two drafters that are told and asked the same."""

    def __init__(self, **settings):
        self.python, self.cpp = (
            SuffixDrafter(name="suffix", look_up=look_up, **settings) for look_up in (SuffixInPython, SuffixInCpp)
        )
        self.running, self.drafted, self.num_begun = [], {}, 0

    def begin(self, tenant, prompt):
        text = Text(request_id=f"{self.num_begun}", tenant=tenant, num_prompt=len(prompt), tokens=prompt)
        self.num_begun += 1
        self.running.append(text)
        self.learn(text, [0])

    def learn(self, text, new):
        text.tokens.extend(new)
        for drafter in (self.python, self.cpp):
            drafter.learn(text.asked())

    def ask(self, texts, **changes):
        contexts = [text.asked(**changes) for text in texts]
        expected = self.python.propose(contexts)
        assert self.cpp.propose(contexts) == expected
        self.drafted = {text.request_id: draft.token_ids for text, draft in zip(texts, expected, strict=True)}

    def end(self, text):
        self.running.remove(text)
        for drafter in (self.python, self.cpp):
            drafter.forget(text.request_id)

    def move(self, kind, first, second):
        if kind == "begin":
            self.begin(first, second)
        elif kind == "ask":
            self.ask(self.running, max_draft_tokens=first, ahead=tuple(second))
        elif self.running:
            text = self.running[first % len(self.running)]
            if kind == "emit":
                self.learn(text, second)
            elif kind == "take":
                self.learn(text, [*self.drafted.get(text.request_id, ())[:second], 1])
            elif kind == "ask untold":
                text.tokens.extend(second)
                self.ask([text])
            else:
                self.end(text)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["tenant", "all"]), st.sampled_from([7, 40, 300, 10_000]), moves)
def test_drafts_and_their_confidences_are_those_of_python(sharing, kept_tokens, moves):
    """Of tenants that share and don't, with answers that make room, prompts, other drafters' tokens ahead, any cap."""
    service = Service(sharing=sharing, kept_tokens=kept_tokens)
    for move in moves:
        service.move(*move)
    service.ask(service.running, max_draft_tokens=16)


def test_a_long_service_is_drafted_for_alike():
    """Thousands of tokens, tables that grow, runs that occur more often than places are kept, matches beyond count."""
    service = Service(kept_tokens=2000)
    for number in range(4):
        service.begin("", [8])
        for token in range(50):
            service.learn(service.running[-1], [100 + token if token % 41 < 40 else number])
            service.ask(service.running[-1:], max_draft_tokens=3)
    for number in range(12):
        service.begin("", [number % 3, 5, *range(300 * (number % 4), 300 * (number % 4) + 400)])
        for step in range(30):
            text = service.running[step % len(service.running)]
            drafted = service.drafted.get(text.request_id, ())
            service.learn(text, [*drafted[: step % 5], 5, (step * number) % 7])
            service.ask(service.running[-3:], max_draft_tokens=16)
        if len(service.running) > 5:
            service.end(service.running[0])


def test_what_nobody_looks_up_is_told_in_small_pieces():
    """Or the first question, or an answer's end, would be a pause for every stream: all that was emitted until then."""
    look_up = SuffixInCpp(owner_of=lambda context: "", kept_tokens=10_000)
    for length in range(1, 200):
        for number in range(16):
            look_up.learn(draft_context(range(1000 * number, 1000 * number + length), request_id=f"{number}"))
            assert len(look_up._untold) <= MOST_UNTOLD


def test_what_cpp_refuses_is_said():
    """A sequence that it doesn't follow. Once: what follows isn't held up by it."""
    look_up = SuffixInCpp(owner_of=lambda context: "", kept_tokens=100)
    look_up.learn(draft_context([1, 2, 3], request_id="followed"))
    look_up._followed["followed"].number = 7
    look_up.learn(draft_context([1, 2, 3, 4], request_id="followed"))

    with pytest.raises(RuntimeError, match="sequence 7 isn't followed"):
        look_up.propose([draft_context([1, 2, 3, 4], request_id="followed")])
    assert look_up.propose([draft_context([7, 8, 7], request_id="another", max_draft_tokens=2)])[0].token_ids == (8, 7)


@pytest.mark.parametrize("rounds", [1, 2, 32])
def test_a_kept_token_takes_no_more_memory_than_is_planned_for(rounds):
    """Tokens of n-grams of their own, or that occurred before; and no more after twice as many, or afterwards."""
    gc.collect()
    before, taken = allocated(), []
    look_up = SuffixInCpp(owner_of=lambda context: "", kept_tokens=KEPT)
    for _ in range(2):
        serve_many(look_up, num_texts=KEPT // 1000 // rounds, rounds=rounds)
        taken.append((allocated() - before) / KEPT)
    serve_many(look_up, num_texts=70, rounds=1)  # of many places few are left
    taken.append((allocated() - before) / KEPT)
    del look_up
    gc.collect()

    assert 0.4 * BYTES_PER_TOKEN < max(taken) < BYTES_PER_TOKEN
    assert taken[1] < 1.05 * taken[0]
    assert allocated() - before < 0.05 * taken[0] * KEPT


def serve_many(look_up, *, num_texts, rounds):
    begun = next(NUMBERS) * 1_000_000
    for _ in range(rounds):
        for index in range(num_texts):
            begin = begun + index * 1000
            look_up.learn(draft_context(range(begin, begin + 1000), request_id="r"))
            look_up.forget("r")


class Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def allocated():
    """Bytes that malloc has given out."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd
