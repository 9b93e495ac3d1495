"""Calls read from text: the same whatever pieces it comes in, and text that is no call stays text."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.server import tool_calls
from bowsprit_engine.server.tool_calls import CallArguments, CallBegins, CallReader, Event, Text
from bowsprit_engine.server.tools import FORMATS

NAMES = ("get", "put")
HERMES = '<tool_call>\n{"name": "get", "arguments": {"city": "Paris {\\"x\\"}", "n": [1, {}]}}\n</tool_call>'
CALL = {"city": 'Paris {"x"}', "n": [1, {}]}
CASES = {
    # name: (format, text, shown text, calls)
    "one": ("hermes", HERMES, "", [("get", CALL)]),
    "two": ("hermes", f"{HERMES}\n{HERMES.replace('get', 'put')}", "", [("get", CALL), ("put", CALL)]),
    "text before": ("hermes", f"I will look.\n\n{HERMES}\n", "I will look.", [("get", CALL)]),
    "text after": ("hermes", f"{HERMES} Wait.", " Wait.", [("get", CALL)]),
    "blanks alone": ("hermes", f"\n \n{HERMES}\n\n", "", [("get", CALL)]),
    "no call": ("hermes", "a < b <tool> done \n", "a < b <tool> done \n", []),
    "another order": (
        "hermes",
        '<tool_call>{"arguments": {"a": 1}, "name": "put"}</tool_call>',
        "",
        [("put", {"a": 1})],
    ),
    "unknown function": (
        "hermes",
        '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "rm", "arguments": {}}\n</tool_call>',
        [],
    ),
    "no object": ("hermes", "x <tool_call>call me</tool_call>", "x <tool_call>call me</tool_call>", []),
    "never closed": ("hermes", '<tool_call>\n{"name": "ge', '<tool_call>\n{"name": "ge', []),
    "marker cut off": ("hermes", "yes <tool_", "yes <tool_", []),
    "list": (
        "smollm2",
        '<tool_call>[{"name": "get", "arguments": {}}, {"name": "put", "arguments": {"a": 2}}]</tool_call>',
        "",
        [("get", {}), ("put", {"a": 2})],
    ),
    "empty list": ("smollm2", "<tool_call>[]</tool_call>", "", []),
    "llama": ("llama3_json", '{"name": "get", "parameters": {"a": "b"}}', "", [("get", {"a": "b"})]),
    "llama, blanks": ("llama3_json", ' {"name":"get","parameters":{"a":"b"}} ', "", [("get", {"a": "b"})]),
    "llama, text": (
        "llama3_json",
        'Use {"name": "get", "parameters": {}}',
        'Use {"name": "get", "parameters": {}}',
        [],
    ),
    "llama, a name that is none": (
        "llama3_json",
        '{"name": ["get"], "parameters": {}}',
        '{"name": ["get"], "parameters": {}}',
        [],
    ),
    "llama, half a pair": (
        "llama3_json",
        '{"parameters": {"a": "\\ud83d"}, "name": "get"}',
        "",
        [("get", {"a": "\ud83d"})],
    ),
    "llama, with its type": (
        "llama3_json",
        '{"type": "function", "name": "get", "id": [1, "}"], "parameters": {"a": 1}}',
        "",
        [("get", {"a": 1})],
    ),
    "llama, an escaped name": ("llama3_json", '{"n\\u0061me": "g\\u0065t", "parameters": {}}', "", [("get", {})]),
    "llama, an escape that there isn't": (
        "llama3_json",
        '{"name": "g\\x65t", "parameters": {}}',
        '{"name": "g\\x65t", "parameters": {}}',
        [],
    ),
    "llama, not JSON": (
        "llama3_json",
        '{"parameters": {"a" 1}, "name": "get"}',
        '{"parameters": {"a" 1}, "name": "get"}',
        [],
    ),
    "llama, other JSON": ("llama3_json", '{"answer": 42} and {}', '{"answer": 42} and {}', []),
}


def read(form: str, pieces: list[str]) -> list[Event]:
    reader = CallReader(FORMATS[form], names=NAMES)
    events = [event for piece in pieces for event in reader.push(piece)]
    return [*events, *reader.flush()]


def summed(events: list[Event]) -> tuple[str, list[tuple[str, object]]]:
    """The text, and each call with its arguments; every argument event belongs to the call that has begun."""
    names = [event.name for event in events if isinstance(event, CallBegins)]
    arguments = [""] * len(names)
    num_begun = 0
    for event in events:
        if isinstance(event, CallBegins):
            assert event.index == num_begun
            num_begun += 1
        if isinstance(event, CallArguments):
            assert event.index == num_begun - 1
            arguments[event.index] += event.text
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert all(argument.encode() for argument in arguments)
    return text, [(name, json.loads(argument)) for name, argument in zip(names, arguments, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_calls_and_text_are_told_apart(case: str) -> None:
    """In one piece."""
    form, text, shown, calls = CASES[case]
    assert summed(read(form, [text])) == (shown, calls)


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(sorted(CASES)), cuts=st.lists(st.integers(0, 200), max_size=12))
def test_pieces_of_any_size_give_the_same(case: str, cuts: list[int]) -> None:
    """A stream's chunks add up to the whole answer's calls."""
    form, text, shown, calls = CASES[case]
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert summed(read(form, pieces)) == (shown, calls)


@settings(max_examples=150, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMATS)),
    pieces=st.lists(
        st.sampled_from(
            [*'<>{}[]",:\\ \n', "<tool_call>", "</tool_call>", '{"name": "get", ', '"arguments": {', "}}", "x"]
        ),
        max_size=25,
    ),
)
def test_nothing_raises_and_without_calls_nothing_is_lost(form: str, pieces: list[str]) -> None:
    """Whatever a model writes. Lists of calls without calls are left out."""
    events = read(form, pieces)
    if not any(isinstance(event, CallBegins) for event in events):
        shown = "".join(event.text for event in events if isinstance(event, Text))
        assert len(shown) <= len("".join(pieces))
        assert shown == "".join(pieces) or "</tool_call>" in "".join(pieces)


def test_a_name_is_told_before_its_arguments_have_ended() -> None:
    """And the arguments as they come."""
    reader = CallReader(FORMATS["hermes"], names=NAMES)
    assert reader.push('<tool_call>\n{"name": "get", "arguments": ') == []
    assert reader.push('{"a": "b') == [CallBegins(0, "get"), CallArguments(0, '{"a": "b')]
    assert reader.push("c") == [CallArguments(0, "c")]
    assert reader.push('"}}') == [CallArguments(0, '"}')]


def test_an_answer_cut_off_within_its_arguments_keeps_what_came() -> None:
    """As OpenAI does, with finish_reason length."""
    events = read("smollm2", ['<tool_call>[{"name": "get", "arguments": {}}, {"name": "put", "arguments": {"a": "b'])
    assert events[-1] == CallArguments(1, '{"a": "b')
    assert [event.name for event in events if isinstance(event, CallBegins)] == ["get", "put"]


LONG = {
    "an answer in JSON": ("llama3_json", '{"answer": "', "word } ", '"}'),
    "a call with a name that never ends": ("llama3_json", '{"name": "', "get", ""),
    "a call whose name comes last": ("llama3_json", '{"parameters": {"a": "', "w } ", '"}, "name": "get"}'),
    "no call after all": ("hermes", '<tool_call>{"arguments": {"a": "', "w } ", '"}, "name": "rm"}'),
    "no JSON after all": ("hermes", '<tool_call>{"arguments": {a ', "{} ", '}, "name": "get"}'),
    "a call": ("hermes", '<tool_call>{"name": "get", "arguments": {"a": "', "w } ", '"}}'),
    "blanks": ("hermes", "a", "\n ", "b"),
    "blanks before a call": ("hermes", "<tool_call>", " \n", '{"name": "get"'),
    "brackets": ("smollm2", "<tool_call>", "[", "x"),
    "beginnings of a marker": ("hermes", "", "<tool", ""),
    "blocks that are none": ("hermes", "", '<tool_call>{"arguments": {', ""),
}


def work_of(case: str, num_repeated: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Python's calls, and characters that the C functions of it see, while a text is read letter by letter."""
    form, begin, repeated, end = LONG[case]
    work = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal work
        work += event == "call"

    class Counted:
        """`json`, with the characters counted that it reads."""

        def __getattr__(self, name: str) -> object:
            return getattr(json, name)

        def loads(self, text: str) -> object:
            nonlocal work
            work += len(text)
            return json.loads(text)

    reader = CallReader(FORMATS[form], names=NAMES)
    with monkeypatch.context() as patch:
        patch.setattr(tool_calls, "json", Counted())
        sys.setprofile(count)
        for letter in begin + repeated * num_repeated + end:
            reader.push(letter)
            work += len(reader._rest)  # what every state looks at
        reader.flush()
        sys.setprofile(None)
    return work


@pytest.mark.parametrize("case", LONG)
def test_the_work_for_an_answer_is_proportional_to_its_length(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it looks like: four times the text is four times the work."""
    short, long = (work_of(case, number, monkeypatch) for number in (100, 400))
    assert long < 5 * short


@pytest.mark.parametrize(
    ("written", "num_needed"),
    [
        ('{"answer": 42}', len('{"an')),  # arguments begin with an a
        ('{"name": "weather", "parameters": {}}', len('{"name": "w')),
        ('{"name": "gets", "parameters": {}}', len('{"name": "gets')),
        ('{"name": ["get"]}', len('{"name": [')),
        ('{"parameters": [1]}', len('{"parameters": [')),
        ("{'name'}", len("{'")),
        ('{"name" "get"}', len('{"name" "')),
        ('{"type": "object", "properties": {}}', len('{"type": "object", "pr')),
        ('{"name": "ge', None),
        ('{"type": "function", "name": "get", "parameters": ', None),
    ],
)
def test_what_cannot_be_a_call_is_shown_with_the_first_letter_that_tells(written: str, num_needed: int | None) -> None:
    """Not a letter later: an answer in JSON streams as any other."""
    reader = CallReader(FORMATS["llama3_json"], names=NAMES)
    shown, when = "", None
    for number, letter in enumerate(written, start=1):
        shown += "".join(event.text for event in reader.push(letter) if isinstance(event, Text))
        when = number if shown and when is None else when
    assert when == num_needed
    assert num_needed is None or shown == written
