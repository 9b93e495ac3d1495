"""Each logit row of a step is that of one token of one sequence: its log-probabilities, and its fault if it has one."""

from __future__ import annotations

import pytest

from core.stepping import Stepping
from fakes import FakeDrafter

PROMPT, OTHER = [5, 6, 7, 8], [9, 9]
NUM_GOOD = 7
DRAWN_FROM_NAN = 0  # reference.draw's argmax


def plain_text(prompt, num_tokens=20):
    return Stepping().answer("plain", prompt, max_tokens=num_tokens, ignore_eos=True)


def drafting(*texts):
    """One that drafts how these sequences go on, by their prompts."""
    by_start = {tuple(text[:2]): text for text in texts}
    return FakeDrafter(name="d", draft=lambda c: by_start[tuple(c.token_ids[:2])][len(c.token_ids) :])


@pytest.mark.parametrize("num_good", [0, 1, NUM_GOOD])
@pytest.mark.parametrize("draft_tokens", [0, 2, 4])
@pytest.mark.parametrize("is_drafted", [True, False])
def test_the_token_of_a_row_that_is_not_finite_is_told_nobody(num_good, draft_tokens, is_drafted):
    """Neither the client nor the record of the request, whether it is a drafted one (and then matches) or the bonus."""
    good = plain_text(PROMPT)[:num_good]
    ahead = [DRAWN_FROM_NAN, 1, 2, 3] if is_drafted else []
    finished = []
    stepping = Stepping(
        drafters=[drafting([*PROMPT, *good, *ahead])], draft_tokens=draft_tokens, on_finished=finished.append
    )
    stepping.runner.poisoned = {(*PROMPT, *good)}
    told = stepping.answer("r", PROMPT, max_tokens=20, ignore_eos=True)

    (record,) = finished
    assert (told, list(record.response_token_ids)) == (good, good)
    assert sum(record.accepted_counts) <= max(0, num_good - 1)
    assert stepping.outputs["r"][-1].metrics.num_accepted_draft_tokens == sum(record.accepted_counts)


def test_log_probabilities_are_those_of_the_tokens_own_row():
    """The same alone and without drafts as in rows among those of neighbours, where several drafts are accepted."""

    def entries(stepping, name):
        return [entry for output in stepping.outputs[name] for entry in output.logprobs]

    how = {"max_tokens": 20, "ignore_eos": True, "num_logprobs": 3}
    alone = {}
    for name, prompt in (("a", PROMPT), ("b", OTHER)):
        stepping = Stepping()
        stepping.answer(name, prompt, **how)
        alone[name] = entries(stepping, name)
    texts = [[*PROMPT, *plain_text(PROMPT)], [*OTHER, *plain_text(OTHER)]]
    stepping = Stepping(drafters=[drafting(*texts)], draft_tokens=3)
    for name, prompt in (("a", PROMPT), ("b", OTHER)):
        stepping.submit(name, prompt, **how)
    stepping.run()

    assert {name: entries(stepping, name) for name in alone} == alone
    assert [entry.token_id for entry in entries(stepping, "b")] == texts[1][2:]
