"""What a run of the demo saw: one sample per answer, the controller's decisions, the training run and its verdict.

Refuses to draw and to print.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from kube import Json, condition, is_true
from traffic import Answer

_RESAMPLES = 2000


class Mode(StrEnum):
    """How a request was drafted."""

    PLAIN = "plain"
    UNTRAINED = "untrained drafters"
    TRAINED = "with the trained head"

    @property
    def comparison(self) -> str:
        """The phase in which it is asked side by side with plain decoding."""
        return f"{self} beside plain"


COMPARED = (Mode.UNTRAINED, Mode.TRAINED)
LOOK_UP = "suffix"  # the sample's drafter of which nothing is trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer. `at`: when it was finished, seconds since the epoch."""

    phase: str
    mode: Mode
    at: float
    seconds: float
    tokens: int
    drafted: int
    accepted: int

    @classmethod
    def of(cls, answer: Answer, *, phase: str, mode: Mode) -> Sample:
        return cls(
            phase=phase,
            mode=mode,
            at=answer.started_at + answer.seconds,
            seconds=answer.seconds,
            tokens=answer.tokens,
            drafted=answer.drafted,
            accepted=answer.accepted,
        )

    @property
    def steps(self) -> int:
        """Forward passes: each gives its accepted drafts and one token."""
        return self.tokens - self.accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one mode, over the answers of its comparison. `speedup`: (ratio, low, high) against the plain ones there.

    `plain_tokens_per_second`: of those. A shared machine changes by the minute; plain itself is of all comparisons.
    """

    tokens_per_second: float
    plain_tokens_per_second: float
    acceptance_length: float
    draft_tokens_per_step: float
    speedup: tuple[float, float, float] | None


@dataclass(slots=True, kw_only=True)
class Record:
    """Grows while the demo runs."""

    began_at: float
    samples: list[Sample] = field(default_factory=list)
    decisions: dict[tuple[str, str], Json] = field(default_factory=dict)
    caps: dict[Mode, list[str]] = field(default_factory=dict)
    texts: dict[int, set[str]] = field(default_factory=dict)
    revision: str | None = None
    verdict: str = "No training run was triggered by the traffic."

    @property
    def num_same_text(self) -> int:
        """Of the compared questions, those with one answer in every mode."""
        return sum(len(texts) == 1 for texts in self.texts.values())

    def note_caps(self, mode: Mode, policy: Json | None) -> None:
        """What the table in force gives a mode at one sequence, when its comparison begins and when it ends.

        There is no table where the machine was never quiet enough to measure a step: engines go by their own policy.
        """
        said, known = caps_of(mode, policy), self.caps.setdefault(mode, [])
        if said not in known[-1:]:
            known.append(said)

    def note_decisions(self, resource: Json) -> None:
        """Status keeps the last ten; here all that were seen since the demo began stay."""
        for decision in resource.get("status", {}).get("decisions", []):
            if moment(decision) >= self.began_at:
                self.decisions[decision["time"], decision["message"]] = decision

    def note_training(self, training: Json | None, revision: Json | None) -> None:
        """How the run ended, in one sentence, and what serves because of it."""
        if training is None:
            return
        name = training["metadata"]["name"]
        if revision is None:
            failed = condition(training, "Failed")
            self.verdict = f"{name} failed ({failed.get('reason')}): {failed.get('message')}"
            return
        data, seconds = revision["spec"].get("data", {}), float(revision["spec"].get("seconds", 0))
        source = f"{data.get('requestsTrain')} requests, {data.get('tokens')} tokens, {seconds:.0f} s"
        if is_true(revision, "Promoted"):
            self.revision = revision["metadata"]["name"]
            self.verdict = f"{self.revision} was promoted ({source}): {condition(revision, 'Promoted')['message']}"
        elif is_true(revision, "Rejected"):
            self.verdict = f"{name} was Rejected ({source}): {condition(revision, 'Rejected').get('message')}"
        else:
            self.verdict = f"{name} waits ({source}): {condition(revision, 'Promoted').get('message')}"

    def compared(self, mode: Mode, *, asked: Mode) -> list[Sample]:
        """Of a mode's comparison with plain decoding the samples `asked` in one of the two, in the questions' order."""
        return [sample for sample in self.samples if sample.phase == mode.comparison and sample.mode is asked]

    def figures(self, mode: Mode) -> Figures | None:
        """None for a mode that wasn't compared."""
        comparisons = COMPARED if mode is Mode.PLAIN else (mode,)
        samples, plain = (
            [sample for of in comparisons for sample in self.compared(of, asked=asked)] for asked in (mode, Mode.PLAIN)
        )
        if not samples:
            return None
        return Figures(
            tokens_per_second=_rate(samples),
            plain_tokens_per_second=_rate(plain),
            acceptance_length=sum(s.tokens for s in samples) / sum(s.steps for s in samples),
            draft_tokens_per_step=sum(s.drafted for s in samples) / sum(s.steps for s in samples),
            speedup=None if mode is Mode.PLAIN else _speedup(samples, plain),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "beganAt": self.began_at,
            "figures": {mode: asdict(found) for mode in Mode if (found := self.figures(mode)) is not None},
            "verdict": self.verdict,
            "revision": self.revision,
            "caps": self.caps,
            "sameText": f"{self.num_same_text} of {len(self.texts)}",
            "decisions": list(self.decisions.values()),
            "samples": [asdict(sample) for sample in self.samples],
        }


def caps_of(mode: Mode, policy: Json | None) -> str:
    """What a DraftPolicy allows one sequence that is asked in this mode, in short words."""
    if mode is Mode.PLAIN:
        return "0"
    rows = (policy or {}).get("spec", {}).get("table")
    if not rows:
        return "the engine's own"
    caps = {entry["name"]: entry["draftTokens"] for entry in rows[0].get("drafters", [])}
    asked = caps if mode is Mode.TRAINED else {LOOK_UP: caps.get(LOOK_UP, 0)}
    return ", ".join(f"{name} {cap}" for name, cap in asked.items()) or "0"


def may_draft(drafter: str, policy: Json | None) -> bool:
    """Whether the table in force lets it draft for one sequence."""
    rows = (policy or {}).get("spec", {}).get("table") or [{}]
    return any(entry["name"] == drafter and entry["draftTokens"] > 0 for entry in rows[0].get("drafters", []))


def moment(decision: Json) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(decision["time"]).timestamp()


def _rate(samples: Sequence[Sample]) -> float:
    return sum(sample.tokens for sample in samples) / sum(sample.seconds for sample in samples)


def _speedup(samples: Sequence[Sample], plain: Sequence[Sample]) -> tuple[float, float, float]:
    """Ratio of rates with its 95 % interval, by drawing questions with replacement (both modes of each)."""
    pairs = list(zip(samples, plain, strict=True))
    draw = random.Random(0)
    ratios = sorted(
        _rate([ours for ours, _ in drawn]) / _rate([theirs for _, theirs in drawn])
        for drawn in (draw.choices(pairs, k=len(pairs)) for _ in range(_RESAMPLES))
    )
    return _rate(samples) / _rate(plain), ratios[_RESAMPLES // 40], ratios[-_RESAMPLES // 40]
