"""The figures to reach, and the verdict on each: reached, missed, or not measured and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bench import plan
from bench.spread import Ratio, ratio

Outcome = Literal["reached", "missed", "not measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`ours` must be at least `at_least` times as fast as `theirs` in the case."""

    what: str
    case: str
    ours: str
    theirs: str
    at_least: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`is_sure`: the whole interval lies on the verdict's side of the limit."""

    what: str
    limit: str
    outcome: Outcome
    measured: Ratio | None = None
    is_sure: bool = False
    note: str = ""


def speed_targets() -> Iterator[Target]:
    """What decode, prefill, copying and hostile prompts must reach."""
    ours, speculative = plan.OURS, plan.OURS_SPECULATIVE
    for theirs, least in ((plan.LLAMA_CPP, 1.3), (plan.TRANSFORMERS, 3.0), (plan.VLLM, 2.0)):
        yield Target(
            what=f"plain decode, B=1, against {theirs}", case="decode-1", ours=ours, theirs=theirs, at_least=least
        )
    yield Target(
        what="plain decode, B=8, against llama.cpp", case="decode-8", ours=ours, theirs=plan.LLAMA_CPP, at_least=2.0
    )
    yield Target(
        what="prefill of 1,024 tokens against llama.cpp",
        case="prefill-1024",
        ours=ours,
        theirs=plan.LLAMA_CPP,
        at_least=1.0,
    )
    for theirs, least in ((ours, 1.9), (plan.LLAMA_CPP, 2.6), (plan.VLLM_NGRAM, 1.5)):
        yield Target(
            what=f"speculative, copying code, B=1, against {theirs}",
            case="copy-1",
            ours=speculative,
            theirs=theirs,
            at_least=least,
        )
    for batch in plan.FULL.hostile_batches:
        yield Target(
            what=f"speculation on random tokens, B={batch}, against our plain",
            case=f"hostile-{batch}",
            ours=speculative,
            theirs=ours,
            at_least=0.97,
        )


def judged(target: Target, samples: Mapping[str, Mapping[str, Sequence[float]]]) -> Verdict:
    """By samples[case][participant], rates paired by round."""
    limit = f"≥ {target.at_least:g}x"
    of_case = samples.get(target.case, {})
    missing = [name for name in (target.ours, target.theirs) if not of_case.get(name)]
    if missing:
        note = f"no samples of {' and '.join(missing)}"
        return Verdict(what=target.what, limit=limit, outcome="not measured", note=note)
    measured = ratio(of_case[target.ours], of_case[target.theirs])
    return bounded(what=target.what, limit=limit, measured=measured, at_least=target.at_least)


def bounded(
    *, what: str, limit: str, measured: Ratio, at_least: float | None = None, at_most: float | None = None
) -> Verdict:
    """A verdict by one bound. Raises ValueError unless exactly one is given."""
    if (at_least is None) == (at_most is None):
        raise ValueError(f"{what}: give at_least or at_most, not {at_least} and {at_most}")
    if at_least is not None:
        is_reached = measured.value >= at_least
        is_sure = measured.low >= at_least if is_reached else measured.high < at_least
    else:
        assert at_most is not None
        is_reached = measured.value <= at_most
        is_sure = measured.high <= at_most if is_reached else measured.low > at_most
    outcome: Outcome = "reached" if is_reached else "missed"
    return Verdict(what=what, limit=limit, outcome=outcome, measured=measured, is_sure=is_sure)
