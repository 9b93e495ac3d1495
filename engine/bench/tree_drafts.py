"""Chains against trees of drafts from the same predictor, at the same step times: is a second continuation worth rows?

    PYTHONPATH=engine python -m bench.tree_drafts --folder FOLDER --profile PROFILE.json

Decides what is verified of a tree: nodes sorted by the probability of their whole path, as many as give the most tokens
per second (`windows`, which serves chains; a path's probability falls, so what it takes is closed under parents). Trees
are favoured: a row of one costs what a row of a chain costs, its mask and the compaction of KV are free, and the bound
knows which continuation is right. Refuses to know grammars and heads.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench import card_times
from bench.drafter_tournament import Curve, profiled
from bench.next_token_counts import Followers, Lookup
from bench.recorded_answers import STREAMS, Answer, read
from bowsprit_engine.speculation.drafters.suffix_in_python import LEAD
from bowsprit_engine.speculation.windows import windows

DEEPEST = 16
MOST_NODES = 48  # of one sequence's tree, before windows
LEAST_PROBABILITY = 0.01  # of a node that is worth looking at

ROOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`parent`: index of the node before it in the tree, or ROOT. `probability`: that the text takes the whole path."""

    token: int
    parent: int
    probability: float


Tree = list[Node]  # probabilities fall
Candidates = Callable[[Sequence[int]], Sequence[tuple[int, float]]]
Shape = Callable[[Candidates, list[int], Sequence[int]], Tree]  # (candidates, text, what is emitted next)


def tree_of(most_children: int) -> Shape:
    """Grows the likeliest leaf first; 1 child makes a chain."""

    def grown(candidates: Candidates, text: list[int], emitted: Sequence[int]) -> Tree:
        tree: Tree = []
        heap: list[tuple[float, int, int, tuple[int, ...]]] = []

        def open_node(path: tuple[int, ...], index: int, probability: float) -> None:
            if len(path) < min(DEEPEST, len(emitted) - 1):  # the last token is the target's own
                for token, share in candidates([*text, *path])[:most_children]:
                    heapq.heappush(heap, (-probability * share, len(heap), index, (*path, token)))

        open_node((), ROOT, 1.0)
        while heap and len(tree) < MOST_NODES and -heap[0][0] >= LEAST_PROBABILITY:
            negative, _, parent, path = heapq.heappop(heap)
            tree.append(Node(token=path[-1], parent=parent, probability=-negative))
            open_node(path, len(tree) - 1, -negative)
        return tree

    return grown


def oracle_of(among: int) -> Shape:
    """A chain that is told which of the likeliest `among` comes next, believed as far as all of them together.

    What a tree of so many continuations could give at most: all of its right rows, none of its wrong ones.
    """

    def told(candidates: Candidates, text: list[int], emitted: Sequence[int]) -> Tree:
        tree: Tree = []
        probability = 1.0
        for depth in range(min(DEEPEST, len(emitted) - 1)):
            known = candidates([*text, *emitted[:depth]])[:among]
            probability *= sum(share for _, share in known)
            if probability < LEAST_PROBABILITY:
                break
            is_known = emitted[depth] in [token for token, _ in known]
            token = emitted[depth] if is_known else known[0][0]
            tree.append(Node(token=token, parent=len(tree) - 1, probability=probability))
            if not is_known:
                break
        return tree

    return told


def no_tree(candidates: Candidates, text: list[int], emitted: Sequence[int]) -> Tree:
    """Plain decoding."""
    return []


SHAPES: dict[str, Shape] = {
    "chain": tree_of(1),
    "tree of 2": tree_of(2),
    "tree of 4": tree_of(4),
    "told which of 2": oracle_of(2),
    "told which of 4": oracle_of(4),
}


@dataclass(slots=True, kw_only=True)
class Tally:
    """Of judged requests. `rows`: drafted tokens that were verified. A step's seconds are shared by its requests."""

    tokens: int = 0
    steps: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Running:
    answer: Answer
    text: list[int]
    own: Followers = field(default_factory=Followers)

    @property
    def left(self) -> Sequence[int]:
        return self.answer.tokens[len(self.text) - len(self.answer.prompt) :]


def matched(tree: Sequence[Node], emitted: Sequence[int]) -> int:
    """Tokens of `emitted` along the tree's path that they take."""
    at, length = ROOT, 0
    for token in emitted:
        child = next((i for i, node in enumerate(tree) if node.parent == at and node.token == token), None)
        if child is None:
            break
        at, length = child, length + 1
    return length


def replay(answers: Sequence[Answer], shape: Shape, *, batch: int, curve: Curve) -> Tally:
    """Answers before the judged ones teach; those are replayed `batch` at a time. Raises ValueError below 1."""
    if batch < 1:
        raise ValueError(f"batch is {batch}, the least is 1")
    lookup, tally = Lookup(), Tally()
    for answer in answers:
        if not answer.is_judged:
            _emit(_begun(answer), lookup, answer.tokens)
    waiting = iter([answer for answer in answers if answer.is_judged and len(answer.tokens) >= 2])
    running: list[_Running] = []
    while running := [entry for entry in running if entry.left] + list(_admitted(waiting, lookup, running, batch)):
        _step(running, lookup, shape, curve, tally)
    return tally


def _admitted(waiting: Iterator[Answer], lookup: Lookup, running: list[_Running], batch: int) -> Iterator[_Running]:
    for _ in range(batch - sum(1 for entry in running if entry.left)):
        answer = next(waiting, None)
        if answer is None:
            return
        entry = _begun(answer)
        _emit(entry, lookup, answer.tokens[:1])
        yield entry


def _begun(answer: Answer) -> _Running:
    entry = _Running(answer=answer, text=list(answer.prompt))
    entry.own.extend(entry.text, 0)
    return entry


def _emit(entry: _Running, lookup: Lookup, tokens: Sequence[int]) -> None:
    lookup.learn(entry.own, entry.text, tokens, answer_begins=max(0, len(entry.answer.prompt) - LEAD))


def _known(curve: Curve, batch: int, most: int) -> Iterator[float]:
    """Seconds with 0, 1, … `most` drafted rows, as far as the curve reaches: windows take no row beyond."""
    for n in range(most + 1):
        try:
            yield curve(batch, batch + n)
        except ValueError:
            return


def _step(running: Sequence[_Running], lookup: Lookup, shape: Shape, curve: Curve, tally: Tally) -> None:
    trees = [
        shape(lambda text, own=entry.own: lookup.candidates(own, text), entry.text, entry.left)  # type: ignore[misc]
        for entry in running
    ]
    seconds = list(_known(curve, len(running), sum(map(len, trees))))
    survivals = [[node.probability for node in tree] for tree in trees]
    granted = windows(survivals, seconds, sure_tokens=len(running))
    taken = seconds[sum(granted)]
    for entry, tree, rows in zip(running, trees, granted, strict=True):
        left = entry.left
        emitted = left[: matched(tree[:rows], left[:-1]) + 1]
        _emit(entry, lookup, emitted)
        tally.tokens += len(emitted)
        tally.steps += 1
        tally.rows += rows
        tally.seconds += taken / len(running)


def main(
    folder: Annotated[Path, typer.Option(help="Of bench.recorded_answers.")],
    profile: Annotated[Path, typer.Option(help="A start-up profile: ~/.cache/bowsprit/profile/*.json.")],
    batch: Annotated[list[int], typer.Option(min=1, help="Requests at a time; may be given again.")] = [1, 8],  # noqa: B006
    only: Annotated[list[str] | None, typer.Option(help="Streams to replay; all, if none is named.")] = None,
) -> None:
    """Print a table per step-time curve and batch size: E, verified rows, goodput against plain."""
    curves = {f"step times of {profile.name}": profiled(profile), f"step times of {card_times.NAME}": card_times.card}
    names = only or list(STREAMS)
    for title, curve in curves.items():
        for requests in batch:
            table = Table("drafts", *names, title=f"E / rows / goodput, B = {requests}, {title}")
            recorded = [read(folder, name) for name in names]
            plain = [replay(answers, no_tree, batch=requests, curve=curve) for answers in recorded]
            for shape_name, shape in SHAPES.items():
                tallies = [replay(answers, shape, batch=requests, curve=curve) for answers in recorded]
                table.add_row(shape_name, *map(_cell, tallies, plain))
            Console(width=140).print(table)


def _cell(tally: Tally, plain: Tally) -> str:
    rows, goodput = tally.rows / tally.steps, plain.seconds / tally.seconds
    return f"{tally.tokens / tally.steps:.2f} / {rows:.1f} / {goodput:.2f}"


if __name__ == "__main__":
    typer.run(main)
