"""Figures to reach, and the tables that show them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import companions, plan, report, server_overhead, targets
from bench.plan import LLAMA_CPP, OURS, VLLM
from bench.protocol import Hello
from bench.spread import Ratio
from bench.targets import Target, Verdict, bounded, judged, speed_targets

TARGET = Target(what="plain decode", case="decode-1", ours=OURS, theirs=LLAMA_CPP, at_least=1.3)


@pytest.mark.parametrize(
    ("measured", "outcome", "is_sure"),
    [
        (Ratio(value=1.5, low=1.4, high=1.6), "reached", True),
        (Ratio(value=1.35, low=1.2, high=1.5), "reached", False),
        (Ratio(value=1.3, low=1.3, high=1.3), "reached", True),
        (Ratio(value=1.25, low=1.1, high=1.4), "missed", False),
        (Ratio(value=1.1, low=1.0, high=1.2), "missed", True),
    ],
)
def test_a_least_is_reached_from_its_value_on(measured: Ratio, outcome: str, is_sure: bool) -> None:
    """Sure when the whole interval agrees."""
    verdict = bounded(what="decode", limit="≥ 1.3x", measured=measured, at_least=1.3)
    assert (verdict.outcome, verdict.is_sure) == (outcome, is_sure)


@pytest.mark.parametrize(
    ("measured", "outcome", "is_sure"),
    [
        (Ratio(value=1.5, low=1.4, high=1.55), "reached", True),
        (Ratio(value=1.5, low=1.4, high=1.7), "reached", False),
        (Ratio(value=1.7, low=1.5, high=1.9), "missed", False),
        (Ratio(value=1.9, low=1.8, high=2.0), "missed", True),
    ],
)
def test_a_most_is_reached_up_to_its_value(measured: Ratio, outcome: str, is_sure: bool) -> None:
    """As T(9)/T(1) is."""
    verdict = bounded(what="T(9)/T(1)", limit="≤ 1.6", measured=measured, at_most=1.6)
    assert (verdict.outcome, verdict.is_sure) == (outcome, is_sure)


def test_a_verdict_needs_one_bound() -> None:
    """Neither none nor two."""
    measured = Ratio(value=1, low=1, high=1)
    with pytest.raises(ValueError, match="not None and None"):
        bounded(what="x", limit="", measured=measured)
    with pytest.raises(ValueError, match="not 1 and 2"):
        bounded(what="x", limit="", measured=measured, at_least=1, at_most=2)


def test_a_target_is_judged_by_its_own_case_and_pair() -> None:
    """Ratio of medians of the two engines' rates."""
    samples = {"decode-1": {OURS: [26.0, 28.0], LLAMA_CPP: [20.0, 20.0], VLLM: [1.0, 1.0]}}
    verdict = judged(TARGET, samples)
    assert verdict.measured is not None
    assert (verdict.outcome, verdict.measured.value, verdict.limit) == ("reached", 1.35, "≥ 1.3x")


def test_a_target_without_samples_is_not_measured_and_says_whose_are_missing() -> None:
    """Never silently reached."""
    verdict = judged(TARGET, {"decode-1": {OURS: [26.0]}})
    assert (verdict.outcome, verdict.note) == ("not measured", "no samples of llama.cpp")


def test_every_target_is_measured_by_a_full_run() -> None:
    """Its case is in the plan, and both engines are in the case."""
    cases = {case.name: case for case in plan.cases(plan.FULL)}
    for target in speed_targets():
        assert {target.ours, target.theirs} <= set(cases[target.case].participants)


@pytest.mark.parametrize("scale", [plan.QUICK, plan.FULL])
def test_every_case_fits_every_engine_in_it(scale: plan.Scale) -> None:
    """Within the longest sequence and the engine's batch; our plain engine is what others are compared with."""
    limits = {entry.name: entry.max_batch_size for entry in plan.PARTICIPANTS}
    for case in plan.cases(scale):
        assert case.prompt_tokens + case.max_tokens <= plan.LONGEST_SEQUENCE
        assert OURS in case.participants
        assert all(case.batch <= limits[name] for name in case.participants)


def test_a_companion_s_figure_is_judged_with_its_interval() -> None:
    """By the key under which the program wrote it."""
    bound = companions.Bound(key="t9_over_t1", what="T(9)/T(1)", at_most=1.6)
    verdict = companions.judged(bound, {"t9_over_t1": {"value": 1.5, "low": 1.4, "high": 1.7}}, "")
    assert verdict == Verdict(
        what="T(9)/T(1)",
        limit="≤ 1.6",
        outcome="reached",
        measured=Ratio(value=1.5, low=1.4, high=1.7),
        is_sure=False,
    )


def test_a_companion_that_failed_leaves_its_figures_unmeasured() -> None:
    """With the reason."""
    bound = companions.Bound(key="t9_over_t1", what="T(9)/T(1)", at_most=1.6)
    assert companions.judged(bound, {}, "exits 1").note == "exits 1"
    assert companions.judged(bound, {"other": 1.0}, "").note == "the program gives no t9_over_t1"


def test_the_server_s_overhead_is_judged_by_the_names_it_writes() -> None:
    """Tokens per second over HTTP against those of the engine asked directly, in the same rounds."""
    overhead = server_overhead.Overhead(streams=8, bare=(100.0, 200.0, 400.0), http=(95.0, 190.0, 380.0))
    bound = next(bound for bound in companions.BOUNDS["server_overhead"] if bound.key == "http_streams_8")
    verdict = companions.judged(bound, server_overhead.figures([overhead]), "")
    assert (verdict.limit, verdict.outcome, verdict.is_sure) == ("≥ 0.9", "reached", True)


CASE = plan.Case(
    name="decode-1",
    title="decode, B=1",
    figure="decode",
    stream="chat",
    batch=1,
    prompt_tokens=192,
    max_tokens=64,
    rounds=2,
    participants=(OURS, LLAMA_CPP, VLLM),
)
MEASUREMENTS = report.Measurements(
    machine={"processor": "a processor"},
    hellos={OURS: Hello(version="bowsprit 1", settings={"threads": "2"})},
    skipped={VLLM: "vllm: uv pip exits 1"},
    cases=(CASE,),
    samples={"decode-1": {OURS: [200.0, 220.0], LLAMA_CPP: [100.0, 110.0]}},
    tokens_per_step={"decode-1": {OURS: [1.0, 1.0]}},
    leading_equal={"decode-1": {LLAMA_CPP: [10.0, 20.0]}},
)


def test_a_case_has_a_row_for_every_engine() -> None:
    """Median, quartiles, our ratio over it with its interval; one that is missing says why."""
    assert report.case_rows(CASE, MEASUREMENTS, ours=OURS) == [
        ["bowsprit", "210.0", "205.0 to 215.0", "", "", "1.00", ""],
        ["llama.cpp", "105.0", "102.5 to 107.5", "2.00", "2 to 2", "", "15"],
        ["vLLM", "vllm: uv pip exits 1", "", "", "", "", ""],
    ]


def test_a_verdict_within_the_spread_says_so() -> None:
    """A reader must not take noise for success."""
    unsure = bounded(what="x", limit="≥ 1x", measured=Ratio(value=1.1, low=0.9, high=1.2), at_least=1.0)
    assert report.verdict_rows([unsure]) == [["x", "≥ 1x", "1.1", "0.9 to 1.2", "reached, within the spread"]]


def test_the_files_hold_every_sample_and_every_verdict(tmp_path: Path) -> None:
    """JSON for programs, Markdown for people, who was skipped in both."""
    verdict = targets.judged(TARGET, MEASUREMENTS.samples)
    as_json, as_markdown = report.write(tmp_path / "out", MEASUREMENTS, [verdict], ours=OURS)
    stored = json.loads(as_json.read_text())
    assert stored["samples"]["decode-1"][LLAMA_CPP] == [100.0, 110.0]
    assert stored["verdicts"][0]["outcome"] == "reached"
    text = as_markdown.read_text()
    assert "| plain decode | ≥ 1.3x | 2 | 2 to 2 | reached |" in text
    assert "**vLLM** skipped: vllm: uv pip exits 1" in text
