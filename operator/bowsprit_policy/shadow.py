"""Does a candidate draft better than who serves? Judged by their paired scores on the same places of live text.

Passes as soon as it is better for sure, is rejected as soon as it is worse for sure; while neither is, it waits, and
at the end of a stated time the offline gate, which it has passed, decides alone. A pod that can't hold a second
revision is left out: it says why, and keeps nobody waiting. Refuses to know how pods come to have a shadow, and to
promote (promotion.py does).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bowsprit_policy import record
from bowsprit_policy.decision import Decision, DecisionKind
from bowsprit_policy.gate import Verdict
from bowsprit_policy.wire import ShadowScores, ShadowStats

MIN_PLACES = 30  # below, the variance is a guess
ERROR_SHARE = 0.05  # of candidates that are as good: how many may be called better or worse, all looks together
_TIGHTEST_AT = 100  # places at which the bound for all looks is closest to the bound for one


class ShadowState(StrEnum):
    """What one pod does with the candidate. The last three score nothing; only Loading may change by itself."""

    SCORING = "Scoring"
    BROKEN = "Broken"
    LOADING = "Loading"
    REFUSED = "Refused"
    UNSUPPORTED = "Unsupported"


_UNABLE = frozenset({ShadowState.REFUSED, ShadowState.UNSUPPORTED})


class ShadowReason(StrEnum):
    """How the stage ended, or that it hasn't."""

    # the candidate goes on
    BETTER_IN_SHADOW = "BetterInShadow"
    NOT_WORSE_IN_SHADOW = "NotWorseInShadow"
    TOO_FEW_PLACES = "TooFewPlaces"
    NO_POD_SHADOWS = "NoPodShadows"
    # it is rejected
    WORSE_IN_SHADOW = "WorseInShadow"
    BROKEN_IN_SHADOW = "BrokenInShadow"
    MATCHES_NOTHING = "MatchesNothing"
    # neither yet
    SHADOWING = "Shadowing"
    STOPPED = "Stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodShadow:
    """One pod in one tick. `message`: why it scores nothing. `stats`: of whatever shadow it has, None without one."""

    pod: str
    state: ShadowState
    message: str = ""
    stats: ShadowStats | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowInputs:
    """Everything that a judgement looks at. `incumbent`: the revision that serves, None while none does."""

    candidate: str
    incumbent: str | None
    pods: tuple[PodShadow, ...]
    elapsed_seconds: float
    limit_seconds: float
    min_places: int = MIN_PLACES


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowFigures:
    """Sums over pods. `places`: sequence-steps that both drafted; matched tokens of both; sum of their differences²."""

    pods: int = 0
    places: int = 0
    candidate_matched: int = 0
    incumbent_matched: int = 0
    squared_differences: int = 0

    @property
    def difference(self) -> float:
        """Candidate's matched tokens per place less the incumbent's; 0 without a place."""
        return (self.candidate_matched - self.incumbent_matched) / self.places if self.places else 0.0

    @property
    def radius(self) -> float:
        """Of the interval around `difference` that holds at every look; infinite without a place.

        Two-sided normal mixture boundary (Robbins 1970; Howard et al. 2021, "Time-uniform, nonparametric,
        nonasymptotic confidence sequences", eq. 14) with the paired variance as measured: an ordinary interval,
        looked at every tick until it excludes 0, would do so by chance sooner or later.
        """
        n = self.places
        if n == 0:
            return math.inf
        variance = max(0.0, self.squared_differences / n - self.difference**2)
        spread = n + _TIGHTEST_AT
        return math.sqrt(variance * spread * math.log(spread / (_TIGHTEST_AT * ERROR_SHARE**2))) / n

    @property
    def interval(self) -> tuple[float, float]:
        """Around `difference`."""
        return self.difference - self.radius, self.difference + self.radius


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowJudgement:
    """`verdict` None: the stage goes on."""

    verdict: Verdict | None
    reason: ShadowReason
    message: str
    figures: ShadowFigures


def decide(inputs: ShadowInputs) -> ShadowJudgement:
    """The first of these that applies: broken anywhere, sure by the figures, nobody able to score, time over."""
    figures = summed(inputs.pods, candidate=inputs.candidate, incumbent=inputs.incumbent)
    words = _words(figures, inputs)
    broken = [pod for pod in inputs.pods if pod.state is ShadowState.BROKEN]
    if broken:
        listed = "; ".join(f"{pod.pod}: {pod.message}" for pod in broken)
        return _judged(Verdict.REJECTED, ShadowReason.BROKEN_IN_SHADOW, f"{listed}; {words}", figures)
    if figures.places >= inputs.min_places and figures.difference > figures.radius:
        return _judged(Verdict.PASSED, ShadowReason.BETTER_IN_SHADOW, words, figures)
    if figures.places >= inputs.min_places and -figures.difference > figures.radius:
        return _judged(Verdict.REJECTED, ShadowReason.WORSE_IN_SHADOW, words, figures)
    if inputs.pods and all(pod.state in _UNABLE for pod in inputs.pods):
        message = f"the offline gate alone decides, since no pod scores it: {_unable(inputs)}"
        return _judged(Verdict.PASSED, ShadowReason.NO_POD_SHADOWS, message, figures)
    if inputs.elapsed_seconds < inputs.limit_seconds:
        return _judged(None, ShadowReason.SHADOWING, words, figures)
    return _at_the_end(inputs, figures, words)


def summed(pods: Iterable[PodShadow], *, candidate: str, incumbent: str | None) -> ShadowFigures:
    """Of the pods that score these two against each other; others' counts are about something else."""
    total = ShadowFigures()
    for pod in pods:
        stats = pod.stats
        if stats is None or stats.candidate.revision != candidate or _revision(stats.incumbent) != incumbent:
            continue
        total = ShadowFigures(
            pods=total.pods + 1,
            places=total.places + stats.sequence_steps,
            candidate_matched=total.candidate_matched + sum(stats.candidate.matched),
            incumbent_matched=total.incumbent_matched + (sum(stats.incumbent.matched) if stats.incumbent else 0),
            squared_differences=total.squared_differences + _squares(stats),
        )
    return total


def rejection(inputs: ShadowInputs, judgement: ShadowJudgement, *, now: float) -> Decision:
    """A rejection as a decision, for status and the log. (Going on is decided by promotion.py.)"""
    return Decision(
        at=now,
        kind=DecisionKind.REJECT,
        reason=judgement.reason,
        message=f"{inputs.candidate}: {judgement.message}",
        before=inputs.incumbent or "untrained",
        after=inputs.incumbent or "untrained",
        record=record.line(kind=DecisionKind.REJECT, at=now, inputs=inputs, outcome=judgement),
    )


def _at_the_end(inputs: ShadowInputs, figures: ShadowFigures, words: str) -> ShadowJudgement:
    if figures.places < inputs.min_places:
        message = f"the offline gate alone decides, after {inputs.elapsed_seconds:.0f} s: {words}"
        return _judged(Verdict.PASSED, ShadowReason.TOO_FEW_PLACES, message, figures)
    if inputs.incumbent is None and figures.candidate_matched == 0:
        return _judged(Verdict.REJECTED, ShadowReason.MATCHES_NOTHING, words, figures)
    return _judged(Verdict.PASSED, ShadowReason.NOT_WORSE_IN_SHADOW, words, figures)


def _judged(verdict: Verdict | None, reason: ShadowReason, message: str, figures: ShadowFigures) -> ShadowJudgement:
    return ShadowJudgement(verdict=verdict, reason=reason, message=message, figures=figures)


def _revision(scores: ShadowScores | None) -> str | None:
    return None if scores is None else scores.revision


def _squares(stats: ShadowStats) -> int:
    """Without an incumbent the difference is the candidate's own count x, and x² is the sum of 2i + 1 for i < x."""
    if stats.incumbent is not None:
        return stats.squared_differences
    return sum((2 * position + 1) * matched for position, matched in enumerate(stats.candidate.matched))


def _words(figures: ShadowFigures, inputs: ShadowInputs) -> str:
    where = f"{figures.places} places of live text, {figures.pods} pods"
    if figures.places == 0:
        said = f"nothing scored yet ({where})"
    else:
        against = "where no revision drafts"
        if inputs.incumbent is not None:
            against = f"{figures.incumbent_matched / figures.places:.2f} by {inputs.incumbent}"
        said = f"{figures.candidate_matched / figures.places:.2f} tokens matched per place, {against}"
        low, high = figures.interval
        said += f", difference {figures.difference:+.2f} [{low:+.2f}, {high:+.2f}] at {where}"
    unable = _unable(inputs)
    return f"{said}; not scored by {unable}" if unable else said


def _unable(inputs: ShadowInputs) -> str:
    return "; ".join(f"{pod.pod} ({pod.state}: {pod.message})" for pod in inputs.pods if pod.state in _UNABLE)
