"""A head without weights: each of its files is a way to answer, and it keeps what it was asked to read."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_policy.wire import DrafterState, DrafterType
from fakes import FAKE_VOCAB

Weights = Callable[[Sequence[DraftContext]], list[Draft]]


def replaying(answers: Mapping[str, Sequence[int]], *, wrong_at: int | None = None) -> Weights:
    """The right tokens, `answers` being whole sequences by the request id's first word; one position may be wrong."""

    def draft(context: DraftContext) -> Draft:
        begin = len(context.token_ids)
        tokens = list(answers.get(context.request_id.split()[0], ())[begin : begin + context.max_draft_tokens])
        if wrong_at is not None and wrong_at < len(tokens):
            tokens[wrong_at] = (tokens[wrong_at] + 1) % FAKE_VOCAB
        return Draft(token_ids=tuple(tokens))

    return lambda contexts: [draft(context) for context in contexts]


def guessing(seed: int) -> Weights:
    """Random tokens, the same for the same text."""

    def draft(context: DraftContext) -> Draft:
        dice = random.Random(f"{seed} {context.token_ids}")
        return Draft(token_ids=tuple(dice.randrange(FAKE_VOCAB) for _ in range(context.max_draft_tokens)))

    return lambda contexts: [draft(context) for context in contexts]


def raising(contexts: Sequence[DraftContext]) -> list[Draft]:
    raise RuntimeError("no such kernel")


def not_finite(contexts: Sequence[DraftContext]) -> list[Draft]:
    return [Draft(token_ids=(1, 2), confidences=(math.nan, math.nan)) for _ in contexts]


def outside(contexts: Sequence[DraftContext]) -> list[Draft]:
    return [Draft(token_ids=(1, FAKE_VOCAB)) for _ in contexts]


def missing(contexts: Sequence[DraftContext]) -> list[Draft]:
    return []


BAD_FILES: Mapping[str, Weights] = {
    "raising": raising,
    "not_finite": not_finite,
    "outside": outside,
    "missing": missing,
}


class RevisedHead:
    """A drafter of type Head. `files`: by the name of the folder; every other folder is refused."""

    type = DrafterType.HEAD

    def __init__(self, files: Mapping[str, Weights], *, name: str = "head") -> None:
        self.name = name
        self.state = DrafterState.EMPTY
        self.reason = "no revision loaded"
        self.revision: str | None = None
        self.files = files
        self.reads: list[str] = []
        self._in_use: Weights | None = None

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        return [Draft(token_ids=())] * len(contexts) if self._in_use is None else self._in_use(contexts)

    def propose_by(self, loaded: object, contexts: Sequence[DraftContext]) -> list[Draft]:
        assert isinstance(loaded, tuple)
        drafts: list[Draft] = loaded[1](contexts)
        return drafts

    def forget(self, request_id: str) -> None:
        """Nothing is kept."""

    def load(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> object:
        return self.load_beside(folder, sha256, revision, model_digest)

    def load_beside(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> object:
        self.reads.append(folder.name)
        if folder.name not in self.files:
            raise SpeculatorError(f"{folder}: sha256: found {'0' * 64}, wanted {sha256}", reason="ChecksumMismatch")
        return revision, self.files[folder.name]

    def swap_in(self, loaded: object) -> None:
        assert isinstance(loaded, tuple)
        self.revision, self._in_use = loaded
        self.state, self.reason = DrafterState.ACTIVE, ""

    def unload(self) -> None:
        self.revision, self._in_use = None, None
        self.state, self.reason = DrafterState.EMPTY, "no revision loaded"
