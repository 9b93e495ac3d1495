"""Recorded answers replayed: the steps of serving, step by step, and what each stream teaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.drafters.base import DraftContext, Drafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_engine.speculation.replay import Recording, Replay
from core import toy_grammar
from core.stepping import Stepping
from fakes import FAKE_VOCAB, HIDDEN, FakeDrafter

CAP = 4
PROMPTS = [[1 + n % 5, 2, 3 + n, 4] for n in range(8)]


def look_up() -> list[Drafter]:
    return [NGramDrafter(name="ngram"), SuffixDrafter(name="suffix")]


def head_knowing(answers: Mapping[str, Sequence[int]]) -> FakeDrafter:
    """Right for three tokens, but for every fifth position, by the place that the last token's state tells."""

    def draft(context: DraftContext) -> Sequence[int]:
        assert isinstance(context.hidden, torch.Tensor)
        row = int(context.hidden[0]) + 1 - context.num_prompt_tokens  # of the answer's last token
        known = list(answers[context.request_id][row + 1 : row + 4])
        return known if row % 5 else [(token + 1) % FAKE_VOCAB for token in known]

    return FakeDrafter(name="head", draft=draft)


def states_of(prompt: Sequence[int], answer: Sequence[int]) -> list[torch.Tensor]:
    """The fake model's: a row's position."""
    return [torch.full((HIDDEN,), float(len(prompt) - 1 + row)) for row in range(len(answer))]


def served(drafters: list[Drafter]) -> dict[str, LiveSequence]:
    """The prompts one after another by the engine's own step, every draft verified whole."""
    stepping = Stepping(drafters=drafters, draft_tokens=CAP)
    stepping.pool.note_step = lambda seconds, **_: None  # type: ignore[method-assign]  # no clock prices the head
    sequences = {}
    for number, prompt in enumerate(PROMPTS):
        stepping.submit(f"{number}", prompt, max_tokens=40)
        sequences[f"{number}"] = stepping.stepper.sequences[f"{number}"]
        stepping.run()
    return sequences


def recording(name: str, prompt: Sequence[int], answer: Sequence[int], **more: object) -> Recording:
    return Recording(request_id=name, prompt_token_ids=tuple(prompt), token_ids=tuple(answer), **more)  # type: ignore[arg-type]


def emitted(replay: Replay, recordings: Sequence[Recording]) -> dict[str, list[tuple[int, int]]]:
    """By request: (drafted, emitted) of each step."""
    found: dict[str, list[tuple[int, int]]] = {}
    for step in replay.steps(recordings):
        for advance in step.advances:
            found.setdefault(advance.request_id, []).append((advance.num_drafted, advance.num_emitted))
    return found


@pytest.mark.parametrize("has_head", [False, True])
def test_a_replay_takes_the_very_steps_of_serving(has_head: bool) -> None:
    """The engine's own step serves eight requests one after another; their answers are replayed through a new pool."""
    answers = {name: sequence.token_ids[len(PROMPTS[0]) :] for name, sequence in served(look_up()).items()}

    def drafters() -> list[Drafter]:
        return [*look_up(), *([head_knowing(answers)] if has_head else [])]

    sequences = served(drafters())
    recordings = [
        recording(name, prompt, answers[name], states=states_of(prompt, answers[name]))
        for name, prompt in zip(answers, PROMPTS, strict=True)
    ]
    pool = DrafterPool(drafters(), vocab_size=FAKE_VOCAB)
    replayed = emitted(Replay(pool, caps=dict.fromkeys(("ngram", "suffix", "head"), CAP)), recordings)
    assert {name: [tokens for _, tokens in steps] for name, steps in replayed.items()} == {
        name: [accepted + 1 for accepted in sequence.accepted_counts] for name, sequence in sequences.items()
    }
    names = {name for sequence in sequences.values() for name in sequence.drafter_names}
    assert names & {"ngram", "suffix"}
    assert ("head" in names) == has_head


@pytest.mark.parametrize(("row_seconds", "expected"), [(0.0, True), (10.0, False)])
def test_windows_are_those_of_the_step_times_given(row_seconds: float, expected: bool) -> None:
    """Where a row costs nothing every draft is verified, where it costs ten steps none is; seconds are told."""
    pool = DrafterPool([FakeDrafter(name="head", draft=lambda context: [9, 9])], vocab_size=FAKE_VOCAB)
    replay = Replay(pool, caps={"head": 2}, step_seconds=lambda batch, rows: 1.0 + row_seconds * (rows - batch))
    steps = list(replay.steps([recording("a", [1], [9] * 12)]))
    assert all((step.advances[0].num_drafted > 0) == expected for step in steps[:-1])
    assert [step.seconds for step in steps] == [1.0] * len(steps)
    assert sum(step.advances[0].num_emitted for step in steps) == 11


def test_requests_overlap_as_many_at_a_time_as_told() -> None:
    """Three answers, two at a time: the third begins when the first has ended."""
    pool = DrafterPool([], vocab_size=FAKE_VOCAB)
    recordings = [recording("a", [1], [2, 3]), recording("b", [1], [2, 3, 4, 5]), recording("c", [1], [2, 3])]
    steps = [
        [advance.request_id for advance in step.advances] for step in Replay(pool, caps={}, batch=2).steps(recordings)
    ]
    assert steps == [["a", "b"], ["b", "c"], ["b"]]


def test_an_answer_that_only_teaches_is_known_to_those_after_it() -> None:
    """No step of it is replayed, and look-up finds it."""
    answer = list(range(10, 20))
    taught = recording("t", [5, 6], answer, only_teaches=True)
    steps = [
        emitted(
            Replay(DrafterPool([SuffixDrafter(name="suffix")], vocab_size=FAKE_VOCAB), caps={"suffix": 16}),
            [*before, recording("a", [5, 6], answer)],
        )
        for before in ([taught], [])
    ]
    assert [list(found) for found in steps] == [["a"], ["a"]]
    assert [len(found["a"]) for found in steps] == [1, 9]


def test_what_a_grammar_forces_is_drafted() -> None:
    """Nobody drafts, and a text that may only be one takes one step of as many tokens as the cap allows."""
    answer = toy_grammar.encode("abcdefgh")
    pool = DrafterPool([FakeDrafter(name="head", draft=lambda context: [])], vocab_size=FAKE_VOCAB)
    constrained = recording("a", [1], answer, grammar=toy_grammar.regex("abcdefgh"))
    free = recording("b", [1], answer)
    steps = emitted(Replay(pool, caps={"head": 16}), [constrained, free])
    assert steps["b"] == [(0, 1)] * 7
    assert sum(tokens for _, tokens in steps["a"]) == 7
    assert len(steps["a"]) <= 3


def test_a_batch_of_nobody_is_refused_with_its_value() -> None:
    """As a caller's mistake."""
    with pytest.raises(ValueError, match="batch is 0, the least is 1"):
        Replay(DrafterPool([], vocab_size=FAKE_VOCAB), caps={}, batch=0)
