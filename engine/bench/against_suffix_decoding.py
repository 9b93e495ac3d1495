"""Our look-up against arctic-inference's suffix decoding on the same recorded answers, in the same order of arrival.

    PYTHONPATH=engine python -m bench.against_suffix_decoding --folder FOLDER

Decides what is compared: predictors. Everybody's whole draft is verified up to the same cap, without windows, grammars
and step times (`fixed_cap_replay`), so tokens per step say who predicts better and drafted tokens at what price. Theirs
runs in an environment of its own, with the defaults of its vLLM plugin and with each setting of a small grid; trees are
off. Refuses to know speed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench import installation
from bench.fixed_cap_replay import Counted, replay
from bench.recorded_answers import STREAMS, Answer, read
from bowsprit_engine.speculation.drafters.base import DraftContext, Drafter, LearningDrafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.drafters.suffix_in_python import SuffixInPython

WORKER_SECONDS = 900.0
DEFAULTS: Mapping[str, float] = {"max_tree_depth": 64, "max_spec_factor": 1.0, "min_token_prob": 0.1}
GRID: Sequence[Mapping[str, float]] = [
    {"max_tree_depth": 64, "max_spec_factor": factor, "min_token_prob": probability}
    for factor in (1.0, 2.0, 4.0, 16.0)
    for probability in (0.1, 0.03, 0.0)
]


class Ours:
    """One of our drafters alone, asked as the engine asks it."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._num_prompt_tokens: dict[int, int] = {}

    def begin(self, request_id: int, prompt: Sequence[int]) -> None:
        self._num_prompt_tokens[request_id] = len(prompt)

    def propose(self, request_id: int, text: Sequence[int], most: int) -> Sequence[int]:
        return self._drafter.propose([self._context(request_id, text, most)])[0].token_ids

    def emitted(self, request_id: int, text: Sequence[int], num_new: int) -> None:
        if isinstance(self._drafter, LearningDrafter):
            self._drafter.learn(self._context(request_id, text, 1))

    def end(self, request_id: int) -> None:
        self._drafter.forget(str(request_id))

    def _context(self, request_id: int, text: Sequence[int], most: int) -> DraftContext:
        return DraftContext(
            request_id=str(request_id),
            token_ids=text,
            hidden=None,
            max_draft_tokens=most,
            seed=0,
            temperature=0.0,
            num_prompt_tokens=self._num_prompt_tokens[request_id],
        )


def ours(recorded: Mapping[str, Sequence[Answer]], *, cap: int, batch: int) -> dict[str, list[Counted]]:
    """By drafter, a figure per stream."""
    drafters: Mapping[str, Callable[[], Drafter]] = {
        "n-gram": lambda: NGramDrafter(name="ngram"),
        "suffix": lambda: SuffixDrafter(name="suffix"),
        "suffix, in Python": lambda: SuffixDrafter(name="suffix", look_up=SuffixInPython),
    }
    return {
        name: [replay(answers, Ours(new()), cap=cap, batch=batch) for answers in recorded.values()]
        for name, new in drafters.items()
    }


def theirs(
    python: Path, recorded: Mapping[str, Sequence[Answer]], settings: Sequence[Mapping[str, float]], *, cap: int,
    batch: int,
) -> list[list[Counted]]:  # fmt: skip
    """By setting, a figure per stream. Raises PeerUnavailableError with the worker's last line when it fails."""
    tasks = [
        json.dumps({"answers": rows, "cap": cap, "batch": batch, "arguments": dict(arguments)})
        for rows in ([asdict(answer) for answer in answers] for answers in recorded.values())
        for arguments in settings
    ]
    # -P keeps the worker's own folder out of the path: a file there is called like the package that it imports.
    process = subprocess.run(
        [str(python), "-P", "-m", "bench.peers.suffix_decoding"],
        env={**os.environ, "PYTHONPATH": str(installation.ROOT / "engine")},
        input="\n".join(tasks),
        capture_output=True,
        text=True,
        timeout=WORKER_SECONDS,
    )
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or ["no output"])[-1]
        raise installation.PeerUnavailableError(f"suffix_decoding: the worker exits {process.returncode}: {last}")
    counted = [Counted(**json.loads(line)) for line in process.stdout.splitlines()]
    return [counted[index :: len(settings)] for index in range(len(settings))]


def main(
    folder: Annotated[Path, typer.Option(help="Of bench.recorded_answers.")],
    cap: Annotated[int, typer.Option(min=1, help="Most draft tokens of a step, everybody's.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the log of the installation is written.")] = Path("out"),
) -> None:
    """Print tokens per step and drafted tokens per step of every predictor on every stream."""
    python = installation.installed(
        installation.SUFFIX_DECODING,
        cache=installation.cache_folder(),
        log=out.resolve() / "suffix_decoding-install.log",
    )
    recorded = {name: read(folder, name) for name in STREAMS}
    found = theirs(python, recorded, [DEFAULTS, *GRID], cap=cap, batch=batch)
    table = Table(
        "predictor", *STREAMS, title=f"tokens per step / drafted per step / µs of drafting, cap {cap}, B = {batch}"
    )
    for name, of_streams in ours(recorded, cap=cap, batch=batch).items():
        table.add_row(f"ours: {name}", *map(_cell, of_streams))
    table.add_row("theirs, defaults", *map(_cell, found[0]))
    for arguments, of_streams in zip(GRID, found[1:], strict=True):
        name = f"theirs, factor {arguments['max_spec_factor']:g}, least {arguments['min_token_prob']:g}"
        table.add_row(name, *map(_cell, of_streams))
    best = [max(column, key=lambda counted: counted.acceptance_length) for column in zip(*found, strict=True)]
    table.add_row("theirs, the best of each stream", *map(_cell, best))
    Console(width=150).print(table)


def _cell(counted: Counted) -> str:
    microseconds = 1e6 * counted.seconds / counted.steps
    return f"{counted.acceptance_length:.3f} / {counted.drafted / counted.steps:.1f} / {microseconds:.0f}"


if __name__ == "__main__":
    typer.run(main)
