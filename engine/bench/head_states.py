"""States of three of the target's layers for recorded answers: what heads read, recomputed once and kept in parts.

Decides which layers, and how documents are stored. Refuses to know heads. The runner gives its last layer's state only,
so each lower layer is the last one of a target that was cut off there: exactly the states that serving would see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.recorded_answers import Answer
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.models import open_model
from bowsprit_engine.training.data import TokenSequence
from bowsprit_engine.training.features import StateReader

NUM_LAYERS_KEPT = 3  # a third and two thirds of the way up, and the last
ANSWERS_PER_PART = 256
LONGEST = 1024  # tokens of a document


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """An answer with the target's states. `features[i]`: of the row of token i, the last layer's before its norm."""

    index: int  # of its question, also the seed of its draw
    num_prompt: int
    tokens: Tensor  # [T] int64, prompt and answer
    features: Tensor  # [T - 1, 3, D] bfloat16

    @property
    def num_answer(self) -> int:
        return len(self.tokens) - self.num_prompt


class LayerReader:
    """The target, and the target cut off after a third and two thirds of its layers."""

    def __init__(self, model: Path, *, num_threads: int) -> None:
        self.runners: list[Runner] = []
        for part in range(1, NUM_LAYERS_KEPT + 1):
            opened = open_model(model, max_model_len=LONGEST, num_threads=num_threads)
            layers = opened.config.num_layers * part // NUM_LAYERS_KEPT
            opened.checkpoint.config = replace(opened.checkpoint.config, num_layers=layers)
            self.runners.append(opened.load().runner)
        self._readers = [StateReader(runner, longest=LONGEST) for runner in self.runners]

    def documents(self, answers: Sequence[Answer]) -> list[Document]:
        """In the order of answers."""
        whole = [(*answer.prompt, *answer.tokens) for answer in answers]
        # A prompt of one token: states of all rows are wanted.
        asked = [TokenSequence(prompt_token_ids=tokens[:1], response_token_ids=tokens[1:]) for tokens in whole]
        layers = [
            [read.hidden.to(torch.bfloat16) for read in reader.read(asked, is_late=lambda: False)]
            for reader in self._readers
        ]
        return [
            Document(
                index=answer.index,
                num_prompt=len(answer.prompt),
                tokens=torch.tensor(tokens),
                features=torch.stack(states, dim=1),
            )
            for answer, tokens, *states in zip(answers, whole, *layers, strict=True)
        ]


def write(path: Path, part: Sequence[Document]) -> None:
    """One file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".tmp")
    columns = [(document.index, document.num_prompt, len(document.tokens)) for document in part]
    save_file(
        {
            "columns": torch.tensor(columns, dtype=torch.int64),
            "tokens": torch.cat([document.tokens for document in part]),
            "features": torch.cat([document.features for document in part]),
        },
        staged,
    )
    staged.rename(path)


def load(path: Path) -> list[Document]:
    """What `write` wrote."""
    stored = load_file(path)
    found: list[Document] = []
    token, row = 0, 0
    for index, num_prompt, length in stored["columns"].tolist():
        found.append(
            Document(
                index=index,
                num_prompt=num_prompt,
                tokens=stored["tokens"][token : token + length],
                features=stored["features"][row : row + length - 1],
            )
        )
        token, row = token + length, row + length - 1
    return found


def parts(answers: Sequence[Answer]) -> dict[int, list[Answer]]:
    """By a range of indices each, so that answers which end later change no earlier part but their own."""
    found: dict[int, list[Answer]] = {}
    for answer in answers:
        found.setdefault(answer.index // ANSWERS_PER_PART, []).append(answer)
    return found


def read_or_compute(
    folder: Path, answers: Sequence[Answer], reader: Callable[[], LayerReader], *, leave_last: int = 0
) -> list[Document]:
    """In the order of answers; parts that are not in `folder` are computed and written.

    `leave_last`: parts that are left out since answers of theirs may still be recorded.
    """
    made: LayerReader | None = None
    found: list[Document] = []
    all_parts = sorted(parts(answers).items())
    for number, part in all_parts[: len(all_parts) - leave_last]:
        path = folder / f"part-{number:03}.safetensors"
        if not path.exists():
            made = made or reader()
            write(path, made.documents(part))
        found += load(path)
    return found
