"""The run itself, with workers that need no engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.comparison import Comparison
from bench.plan import LLAMA_CPP, OURS, TRANSFORMERS, VLLM, Case
from bench.protocol import Answer, Emission, Task, WorkerError

CASE = Case(
    name="decode-1",
    title="decode",
    figure="decode",
    stream="chat",
    batch=1,
    prompt_tokens=3,
    max_tokens=3,
    rounds=3,
    participants=(OURS, LLAMA_CPP, TRANSFORMERS),
)
PROMPTS = [[(1, 2, number)] for number in range(4)]


class FakeWorker:
    """Emits a token every `seconds`; writes its name down when asked; fails when the prompt ends in `fails_at`."""

    def __init__(
        self,
        name: str,
        asked: list[str],
        *,
        seconds: float = 1.0,
        token_ids: Sequence[int] = (4, 5, 6),
        fails_at: int | None = None,
        is_silent_at: int | None = None,
    ) -> None:
        self.name = name
        self.asked = asked
        self.tasks: list[Task] = []
        self._seconds = seconds
        self._token_ids = tuple(token_ids)
        self._fails_at = fails_at
        self._is_silent_at = is_silent_at

    def ask(self, task: Task, *, timeout_seconds: float) -> Answer:
        self.asked.append(self.name)
        self.tasks.append(task)
        if task.prompts[0][-1] == self._fails_at:
            raise WorkerError("out of memory")
        num_tokens = 1 if task.prompts[0][-1] == self._is_silent_at else len(self._token_ids)
        emissions = tuple(Emission(seconds=self._seconds * i, num_tokens=i) for i in range(1, num_tokens + 1))
        return Answer(token_ids=(self._token_ids[:num_tokens],), emissions=(emissions,), seconds=self._seconds)


def compared(*workers: FakeWorker, case: Case = CASE) -> tuple[Comparison, list[str]]:
    lines: list[str] = []
    comparison = Comparison({worker.name: worker for worker in workers}, progress=lines.append)
    comparison.run(case, PROMPTS)
    return comparison, lines


def test_every_round_begins_with_another_engine() -> None:
    """Whoever comes first after a pause has a cooler processor: each has that in turn."""
    asked: list[str] = []
    compared(*(FakeWorker(name, asked) for name in CASE.participants))
    one_round = [OURS, LLAMA_CPP, TRANSFORMERS]
    assert asked == [
        *one_round,
        LLAMA_CPP,
        TRANSFORMERS,
        OURS,
        TRANSFORMERS,
        OURS,
        LLAMA_CPP,
        *one_round,
    ]


def test_the_first_batch_warms_up_and_is_not_counted() -> None:
    """Three rounds of four batches."""
    comparison, _ = compared(FakeWorker(OURS, [], seconds=0.5))
    assert comparison.found.samples == {"decode-1": {OURS: [2.0, 2.0, 2.0]}}


def test_engines_answer_the_same_prompts() -> None:
    """Token for token, at the case's own temperature and length."""
    ours, theirs = FakeWorker(OURS, []), FakeWorker(LLAMA_CPP, [])
    compared(ours, theirs)
    assert ours.tasks == theirs.tasks
    assert ours.tasks[3] == Task(prompts=((1, 2, 3),), max_tokens=3, temperature=0.0, ignore_eos=True)


def test_prefill_is_prompt_tokens_until_the_first_one_of_the_answer() -> None:
    """In tokens per second."""
    case = dataclasses.replace(CASE, name="prefill", figure="prefill", prompt_tokens=1024, max_tokens=1)
    comparison, _ = compared(FakeWorker(OURS, [], seconds=2.0), case=case)
    assert comparison.found.samples["prefill"][OURS] == [512.0] * 3


def test_how_far_an_answer_is_ours_is_counted() -> None:
    """Evidence of the same weights and prompt."""
    comparison, _ = compared(FakeWorker(OURS, []), FakeWorker(LLAMA_CPP, [], token_ids=(4, 5, 9)))
    assert comparison.found.leading_equal["decode-1"] == {LLAMA_CPP: [2, 2, 2]}


def test_an_engine_that_fails_is_left_out_and_named() -> None:
    """Its samples of that case are void; the others go on."""
    comparison, lines = compared(FakeWorker(OURS, []), FakeWorker(LLAMA_CPP, [], fails_at=2))
    assert comparison.found.samples["decode-1"] == {OURS: [1.0, 1.0, 1.0]}
    assert comparison.found.skipped == {LLAMA_CPP: "failed in decode-1: out of memory"}
    assert any("llama.cpp is left out" in line and "out of memory" in line for line in lines)


def test_a_round_without_a_window_counts_for_nobody() -> None:
    """Samples stay paired by round."""
    comparison, lines = compared(FakeWorker(OURS, []), FakeWorker(LLAMA_CPP, [], is_silent_at=2))
    assert comparison.found.samples["decode-1"] == {OURS: [1.0, 1.0], LLAMA_CPP: [1.0, 1.0]}
    assert any("a round is left out, llama.cpp" in line for line in lines)


def test_an_engine_that_never_came_up_is_not_asked() -> None:
    """And is in no table as if it had been measured."""
    asked: list[str] = []
    case = dataclasses.replace(CASE, participants=(OURS, VLLM))
    comparison, _ = compared(FakeWorker(OURS, asked), case=case)
    assert set(asked) == {OURS}
    assert VLLM not in comparison.found.samples["decode-1"]
