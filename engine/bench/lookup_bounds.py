"""How long drafts from look-up could at most become on recorded answers: oracles that know what is emitted next.

    PYTHONPATH=engine python -m bench.lookup_bounds --folder FOLDER

Decides what a look-up could have known at each step of an answer: the prompt, the answer so far, and the answers before
it. An oracle drafts, of all that it may copy, what matches longest, so no look-up under the same restriction gets more
tokens per step. Refuses to know how a look-up would find the place, and windows and step times.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.recorded_answers import STREAMS, Answer, read

CONTEXTS = (4, 2, 1, 0)  # tokens before a place that must equal the last ones of the text

Longest = Callable[[int], int]  # index in prompt + answer -> tokens from there on that the oracle drafts rightly


@dataclass(slots=True, kw_only=True)
class Places:
    """Texts to copy from, and where each token stands in them."""

    texts: list[Sequence[int]] = field(default_factory=list)
    of_token: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, text: Sequence[int]) -> None:
        for index, token in enumerate(text):
            self.of_token.setdefault(token, []).append((len(self.texts), index))
        self.texts.append(text)


def place_oracle(text: Sequence[int], others: Places, *, context: int, most: int) -> Longest:
    """Copies from one place per step: of all in `others` and earlier in `text` that follow the same `context` tokens.

    A copy from `text` itself may run past its end, into what it has just drafted.
    """
    own = Places()
    own.add(text)

    def longest(start: int) -> int:
        best = 0
        for places, end in ((others, None), (own, start)):
            for number, index in places.of_token.get(text[start], ()):
                source = places.texts[number]
                if (end is None or index < end) and _follows(source, index, text, start, context):
                    best = max(best, _run(source, index, text, start, most))
        return best

    return longest


def stitching_oracle(text: Sequence[int], others: Places, *, context: int, most: int) -> Longest:
    """Changes places at every token: each has to follow the same `context` tokens somewhere in what is known."""
    known: set[tuple[int, ...]] = {
        tuple(source[index - context : index + 1])
        for source in others.texts
        for index in range(min(context, len(source)), len(source))
    }
    first: dict[tuple[int, ...], int] = {}
    for index in range(context, len(text)):
        first.setdefault(tuple(text[index - context : index + 1]), index)

    def longest(start: int) -> int:
        for length in range(min(most, len(text) - start)):
            run = tuple(text[start + length - context : start + length + 1])
            # What is drafted already may be copied from, as in a place oracle.
            if run not in known and first[run] >= start + length:
                return length
        return min(most, len(text) - start)

    return longest


def aligned_oracle(text: Sequence[int], prompt_length: int, *, most: int) -> Longest:
    """Copies from the prompt along the alignment of the whole answer with it: resumes right after every edit."""
    matcher = difflib.SequenceMatcher(a=text[:prompt_length], b=text[prompt_length:], autojunk=False)
    source_of = {
        prompt_length + block.b + offset: block.a + offset
        for block in matcher.get_matching_blocks()
        for offset in range(block.size)
    }

    def longest(start: int) -> int:
        source = source_of.get(start)
        return 0 if source is None else _run(text[:prompt_length], source, text, start, most)

    return longest


def steps_of(longest: Longest, *, begin: int, end: int) -> int:
    """Steps to emit the tokens from `begin` to `end`, with one token of the target's own at the end of each."""
    steps, at = 0, begin
    while at < end:
        at += min(longest(at), end - at - 1) + 1
        steps += 1
    return steps


def bounds(answers: Iterable[Answer], *, cap: int) -> dict[str, float]:
    """Most tokens per step of judged answers, by what the oracle may copy. Raises ValueError for a cap below 1."""
    if cap < 1:
        raise ValueError(f"cap is {cap}, the least is 1")
    others, tokens, steps = Places(), 0, dict[str, int]()
    for answer in answers:
        if answer.is_judged and len(answer.tokens) >= 2:
            text = [*answer.prompt, *answer.tokens]
            begin = len(answer.prompt) + 1  # the first token comes from the prompt's last row
            tokens += len(answer.tokens) - 1
            for name, oracle in _oracles(text, others, len(answer.prompt), cap=cap).items():
                steps[name] = steps.get(name, 0) + steps_of(oracle, begin=begin, end=len(text))
        others.add(answer.tokens)
    return {name: tokens / count for name, count in steps.items()}


def _oracles(text: Sequence[int], others: Places, prompt_length: int, *, cap: int) -> dict[str, Longest]:
    oracles = {
        f"one place, {context} token{'s' * (context != 1)} before it alike": place_oracle(
            text, others, context=context, most=cap
        )
        for context in CONTEXTS
    }
    for context in (2, 1):
        oracles[f"places changed at will, {context} alike"] = stitching_oracle(text, others, context=context, most=cap)
    near, aligned = oracles["one place, 1 token before it alike"], aligned_oracle(text, prompt_length, most=cap)
    oracles["the prompt alone, resumed rightly after each edit"] = aligned
    oracles["one place, 1 token alike, or resumed rightly"] = lambda start: max(near(start), aligned(start))
    oracles["all that is emitted"] = lambda start: min(cap, len(text) - start)
    return oracles


def _follows(source: Sequence[int], index: int, text: Sequence[int], start: int, context: int) -> bool:
    return index >= context and all(source[index - n] == text[start - n] for n in range(1, context + 1))


def _run(source: Sequence[int], index: int, text: Sequence[int], start: int, most: int) -> int:
    length, limit = 0, min(most, len(source) - index, len(text) - start)
    while length < limit and source[index + length] == text[start + length]:
        length += 1
    return length


def main(
    folder: Annotated[Path, typer.Option(help="Of bench.recorded_answers.")],
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a step.")] = 16,
) -> None:
    """Print the bounds of every stream."""
    by_stream = {name: bounds(read(folder, name), cap=cap) for name in STREAMS}
    table = Table("most tokens per step when drafts are copied from", *STREAMS)
    for name in by_stream[STREAMS[0]]:
        table.add_row(name, *(f"{by_stream[stream][name]:.2f}" for stream in STREAMS))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
