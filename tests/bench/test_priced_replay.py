"""The bill of a replay: steps by a curve, a head at its stated price, and what the pool makes of that price."""

import pytest
import torch

from bench.card_times import MILLISECONDS, card
from bench.head_judging import Drafted, PricedHead
from bench.head_mixture import by_native_call, by_weights_read, oracle_sum
from bench.head_table import per_token
from bench.priced_replay import look_up, plain_seconds, replayed
from bowsprit_engine.speculation.replay import Recording
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows

STEP = 1000.0  # seconds: beside them this machine's own are nothing
TOKENS = tuple(range(100, 141))  # nothing that look-up could find


def recording(request_id="7"):
    return Recording(request_id=request_id, prompt_token_ids=(1, 2, 3), token_ids=TOKENS)


def right_head(*, seconds):
    """It says the next four tokens wherever it is asked."""
    padded = torch.tensor([*TOKENS, 0, 0, 0, 0])
    rows = torch.stack([padded[row + 1 : row + 5] for row in range(len(TOKENS) - 1)])
    drafted = Drafted(
        index=7,
        num_prompt=3,
        token_ids=rows,
        sure=torch.full(rows.shape, 0.99),
        matching=torch.zeros(len(rows)),
        possible=torch.zeros(len(rows)),
    )
    return PricedHead([drafted], seconds=seconds)


def flat(batch, rows):
    return STEP


def test_a_heads_drafts_are_paid_as_stated():
    """Beside the steps that they save."""
    head = right_head(seconds=lambda sequences, tokens: tokens * 1.0)
    bill = replayed([recording()], look_up("suffix"), head, curve=flat)
    assert bill.tokens == len(TOKENS) - 1
    assert bill.step_seconds == bill.steps * STEP
    assert bill.acceptance_length > 3
    assert bill.drafting_seconds == pytest.approx(head.stated_seconds, abs=STEP / 10)
    assert head.stated_seconds > 4.0
    assert bill.turns_of_request == {"7": bill.steps}
    assert bill.steps_of_request == {"7": pytest.approx(bill.step_seconds)}
    assert bill.seconds_of_request == {"7": pytest.approx(bill.seconds)}


def test_a_head_is_not_asked_where_its_price_is_more_than_it_brings():
    """The pool learns the price from what is stated: ten steps for a token."""
    dear = right_head(seconds=lambda sequences, tokens: tokens * 10 * STEP)
    cheap = right_head(seconds=lambda sequences, tokens: tokens * 1.0)
    bills = [replayed([recording()], [], head, curve=flat) for head in (dear, cheap)]
    assert bills[0].acceptance_length < 1.3  # two calls until the price is known
    assert bills[1].acceptance_length > 3


def test_requests_that_share_steps_share_their_seconds_and_count_them_each():
    """Two at a time: as many turns as alone, half the seconds."""
    bill = replayed([recording("7"), recording("8")], [], None, curve=flat, batch=2)
    turns = len(TOKENS) - 1
    assert bill.turns_of_request == {"7": turns, "8": turns}
    assert bill.steps_of_request == {"7": pytest.approx(turns * STEP / 2), "8": pytest.approx(turns * STEP / 2)}


def test_plain_decoding_takes_a_step_per_token_after_the_first():
    """Whoever could draft."""
    assert plain_seconds([recording()], curve=flat) == (len(TOKENS) - 1) * STEP


def test_the_oracle_takes_each_requests_cheapest_drafter():
    """Not the drafter that is cheapest over all."""
    assert oracle_sum([{"a": 1.0, "b": 5.0}, {"a": 4.0, "b": 3.0}]) == 4.0


def test_a_draft_is_priced_by_its_tokens():
    """Linear from nothing over the measured lengths; for one sequence, as measured."""
    price = per_token({"4": 2.0, "8": 3.0})
    assert [price(1, tokens) for tokens in (2, 4, 6)] == [1.0, 2.0, 2.5]
    with pytest.raises(ValueError, match="for 2 sequences"):
        price(2, 4)


def small_head():
    """Of hidden size 4, width 3, and 5 tokens: 24 weights once a call, 24 + 12 + 20 for each token."""
    target = TargetRows(draft_token_ids=torch.arange(5), lm_head=torch.ones(5, 4), final_norm=torch.ones(4))
    return RecurrentHead(HeadShape(hidden_size=4, intermediate_size=3, rms_norm_eps=1e-5), target)


def test_on_a_card_a_head_costs_the_share_of_the_weights_that_it_reads():
    """Once for the emitted token, then by the drafted ones, of a step of as many sequences."""
    price = by_weights_read(small_head(), 1000, card)
    assert price(1, 1) == pytest.approx(0.080 * card(1, 1))
    assert price(1, 4) == pytest.approx(0.248 * card(1, 1))
    assert price(8, 4) == pytest.approx(0.248 * card(8, 8))


def test_a_cards_step_is_read_between_and_beyond_what_was_measured():
    """Rows of a batch, a batch between two, more rows than a sequence had; and a step that nobody knows."""
    assert card(1, 1) == pytest.approx(1e-3 * MILLISECONDS[1][0])
    assert card(8, 36) == pytest.approx(1e-3 * (MILLISECONDS[8][3] + MILLISECONDS[8][4]) / 2)
    assert card(5, 40) == card(8, 40)
    assert card(1, 17) == pytest.approx(1e-3 * (MILLISECONDS[2][7] + MILLISECONDS[2][8]) / 2)
    for batch, rows in ((33, 33), (32, 513)):
        with pytest.raises(ValueError, match=f"{batch} sequences and {rows} rows: at most 32 and 512"):
            card(batch, rows)


def test_on_this_machine_a_head_costs_a_native_call():
    """With each token and each further sequence as they were measured."""
    price = by_native_call(flat)
    assert price(1, 4) == pytest.approx(0.061 * STEP)
    assert price(8, 4) == pytest.approx(0.061 * 1.21 * STEP)
