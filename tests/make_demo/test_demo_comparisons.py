"""What `make demo` compares, and when: each row drafts by caps of its own, and nothing is learnt from what is compared.

The cluster and the engine are played; the phases, their records and the table are those of the demo.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

import demo
from demo_record import Mode, Record, Sample, caps_of, may_draft
from demo_table import comparison_table
from kube import Json
from traffic import Answer, Prompt, headers

BEGAN_AT = 1_000.0
HEAD = "smollm2-head-1"


def policy(**caps: int) -> Json:
    drafters = [{"name": name, "draftTokens": cap} for name, cap in caps.items()]
    return {"spec": {"table": [{"maxBatchSize": 1, "drafters": drafters}, {"drafters": []}]}}


def said(type_: str) -> Json:
    condition = {"type": type_, "status": "True", "reason": "r", "message": "m"}
    return {"status": {"revision": HEAD, "conditions": [condition]}}


@dataclass(slots=True, kw_only=True)
class PlayedKube:
    """`runs`: the SpeculatorTrainings that there are. One that has ended has made the revision that is promoted."""

    runs: list[Json] = field(default_factory=list)

    def list(self, kind: str) -> list[Json]:
        return self.runs

    def get(self, kind: str, name: str) -> Json | None:
        return {"metadata": {"name": name}, "spec": {}} | said("Promoted")


@dataclass(slots=True, kw_only=True)
class PlayedModel:
    kube: PlayedKube = field(default_factory=PlayedKube)
    name: str = "smollm2"

    @property
    def resource(self) -> Json:
        return {"status": {}}

    def serves(self, revision: str) -> bool:
        return True


class PlayedTraffic(demo.Traffic):
    """Every answer takes a second and is drafted as the table says, which gives look-up nothing beside a head."""

    def __init__(self, *, is_trained: bool = False) -> None:
        self.is_trained = is_trained
        self.captured: dict[str, bool] = {}
        self.now = BEGAN_AT
        runs = [self.run()] if is_trained else []
        model: Any = PlayedModel(kube=PlayedKube(runs=runs))
        super().__init__(model, Record(began_at=BEGAN_AT), Progress(disable=True))

    @staticmethod
    def run() -> Json:
        return {"metadata": {"name": HEAD, "creationTimestamp": "1"}, "spec": {"modelName": "smollm2"}} | said(
            "Complete"
        )

    @property
    def policy(self) -> Json | None:
        return policy(suffix=0, head=4) if self.is_trained else policy(suffix=8)

    async def ask(self, phase: str, mode: Mode, prompt: Prompt, *, turn: int = 0, is_captured: bool = True) -> Answer:
        self.now += 1.0
        self.captured[phase] = is_captured
        asked = demo.AWAITED.get(mode)
        tokens = 20 if asked is not None and may_draft(asked, self.policy) else 10
        text = str(prompt.messages[0]["content"])
        answer = Answer(
            text=text,
            finish_reason="stop",
            tokens=tokens,
            started_at=self.now - 1.0,
            seconds=1.0,
            is_speculative=True,
            accepted=tokens - 10,
        )
        self.record.samples.append(Sample.of(answer, phase=phase, mode=mode))
        return answer

    async def until_trained(self, prompts: list[Prompt]) -> Json | None:
        self.is_trained = True
        return self.run()


def questions() -> list[Prompt]:
    return [Prompt(messages=({"role": "user", "content": str(n)},)) for n in range(demo.NUM_QUESTIONS)]


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that never lets look-up draft isn't waited for."""
    monkeypatch.setattr(demo, "ADMISSION_SECONDS", 0.0)


async def test_look_up_is_compared_while_the_table_is_about_look_up() -> None:
    """Before any head is trained, so that what the controller gives it beside one doesn't matter."""
    traffic = PlayedTraffic()
    await demo.follow(traffic, questions())
    untrained, trained = (traffic.record.figures(mode) for mode in (Mode.UNTRAINED, Mode.TRAINED))
    assert untrained is not None
    assert trained is not None
    assert (untrained.speedup, trained.speedup) == ((2.0, 2.0, 2.0), (2.0, 2.0, 2.0))
    assert traffic.record.caps == {Mode.UNTRAINED: ["suffix 8"], Mode.TRAINED: ["suffix 0, head 4"]}


async def test_what_is_compared_is_not_captured_and_what_is_learnt_from_is() -> None:
    """A head that was trained on the very questions would be flattered by them; and 400 requests are learnt from."""
    traffic = PlayedTraffic()
    await demo.follow(traffic, questions())
    compared = {mode.comparison for mode in (Mode.UNTRAINED, Mode.TRAINED)}
    assert {phase for phase, is_captured in traffic.captured.items() if not is_captured} == compared
    first = next(index for index, sample in enumerate(traffic.record.samples) if sample.phase in compared)
    learnt = [sample for sample in traffic.record.samples if sample.phase not in compared]
    assert first < 400 <= len(learnt)


async def test_each_question_is_asked_in_both_modes_in_turning_order() -> None:
    """Neighbours in time see the same machine, and neither mode is always first."""
    traffic = PlayedTraffic()
    await traffic.compare(Mode.UNTRAINED, questions()[:4])
    modes = [sample.mode for sample in traffic.record.samples]
    plain, drafted = Mode.PLAIN, Mode.UNTRAINED
    assert modes == [plain, drafted, drafted, plain, plain, drafted, drafted, plain]
    assert (traffic.record.num_same_text, len(traffic.record.texts)) == (4, 4)


@pytest.mark.usefixtures("_patience")
async def test_a_second_run_says_by_which_caps_look_up_drafted_beside_the_head() -> None:
    """There is a head from the first run on: the row is what look-up gives there, and its caps are shown."""
    traffic = PlayedTraffic(is_trained=True)
    await demo.follow(traffic, questions())
    untrained = traffic.record.figures(Mode.UNTRAINED)
    assert untrained is not None
    assert (traffic.record.caps[Mode.UNTRAINED], untrained.acceptance_length) == (["suffix 0"], 1.0)


async def test_the_closing_table_has_a_row_per_mode_with_its_caps() -> None:
    """As they were when the mode was compared."""
    traffic = PlayedTraffic()
    await demo.follow(traffic, questions())
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison_table(traffic.record))
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [(row[0], row[5], row[6]) for row in cells] == [
        ("plain", "0", "1"),
        ("untrained drafters", "suffix 8", "2.00  [2.00, 2.00]"),
        (f"with {HEAD}", "suffix 0, head 4", "2.00  [2.00, 2.00]"),
    ]


def test_caps_that_change_during_a_comparison_are_both_told() -> None:
    """Without a table engines go by their own policy."""
    record = Record(began_at=BEGAN_AT)
    for found in (None, policy(suffix=8), policy(suffix=8), policy(suffix=4, head=6)):
        record.note_caps(Mode.UNTRAINED, found)
    assert record.caps[Mode.UNTRAINED] == ["the engine's own", "suffix 8", "suffix 4"]
    assert caps_of(Mode.TRAINED, policy(suffix=4, head=6)) == "suffix 4, head 6"


def test_what_is_not_captured_says_so_to_the_server() -> None:
    """Any word but `allow` forbids it."""
    assert headers(tenant=None, is_captured=True) == {}
    assert headers(tenant="t", is_captured=False) == {"x-bowsprit-tenant": "t", "x-bowsprit-capture": "deny"}
