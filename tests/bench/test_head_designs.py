"""The compared heads: teacher forcing equals serving token by token, one loss, one budget, one judge."""

import pytest
import torch

from bench.head_batch import batch_of
from bench.head_block import BlockHead
from bench.head_eagle import EagleHead
from bench.head_judging import PricedHead, acceptance_length, draft_all, matched_per_position, steps_of
from bench.head_recurrent import RecurrentDesign
from bench.head_states import Document, load, write
from bench.head_training import Budget, batches, train
from bench.head_weights import weights_read
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.training.head import TargetRows, norm

D, VOCABULARY, EPS, POSITIONS = 64, 40, 1e-5, 3


@pytest.fixture
def target():
    torch.manual_seed(1)
    ids = torch.arange(0, VOCABULARY, 2)
    return TargetRows(draft_token_ids=ids, lm_head=torch.randn(len(ids), D), final_norm=torch.ones(D))


@pytest.fixture
def embedding():
    torch.manual_seed(2)
    return torch.randn(VOCABULARY, D)


def document(index, *, prompt, answer, target=None):
    """Its tokens count upwards by 2; with a target, the last layer's states tell its next token."""
    torch.manual_seed(index)
    tokens = (torch.arange(prompt + answer) + index) * 2 % VOCABULARY
    features = torch.randn(prompt + answer - 1, 3, D)
    if target is not None:
        features[:, -1] = target.lm_head[tokens[1:] // 2]
    return Document(index=index, num_prompt=prompt, tokens=tokens, features=features.to(torch.bfloat16))


def design_of(name, target, embedding):
    torch.manual_seed(3)
    made = {
        "recurrent": lambda: RecurrentDesign(target, embedding, intermediate_size=64, eps=EPS),
        "fused": lambda: RecurrentDesign(target, embedding, intermediate_size=64, eps=EPS, is_fused=True),
        "eagle": lambda: EagleHead(target, embedding, intermediate_size=64, eps=EPS, kv_heads=1),
        "window": lambda: EagleHead(target, embedding, intermediate_size=64, eps=EPS, kv_heads=1, window=2),
        "block": lambda: BlockHead(target, embedding, intermediate_size=64, eps=EPS, block=POSITIONS, kv_heads=1),
    }[name]()
    with torch.no_grad():  # else what is nearly zero at first hides what it reads
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return made


NAMES = ("recurrent", "fused", "eagle", "window", "block")


@pytest.mark.parametrize("name", NAMES)
def test_no_draft_sees_what_comes_after_it(name, target, embedding):
    """A position's states are the same whatever the answer goes on with, and whatever is beside it in the batch."""
    design = design_of(name, target, embedding)
    whole = document(7, prompt=3, answer=9)
    changed_tokens, changed_features = whole.tokens.clone(), whole.features.clone()
    anchor, cut = 4, 4 + 1 + POSITIONS  # token 5 is emitted, positions 1 and 2 are fed tokens 6 and 7
    changed_tokens[cut:] = 1
    changed_features[anchor + 1 :] = 0
    changed = Document(index=7, num_prompt=3, tokens=changed_tokens, features=changed_features)
    other = document(8, prompt=5, answer=12)

    alone = design.states(batch_of([whole]), POSITIONS)
    beside = design.states(batch_of([changed, other]), POSITIONS)

    row = anchor - (whole.num_prompt - 1)
    for first, second in zip(alone, beside, strict=True):
        torch.testing.assert_close(second[0, row], first[0, row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["eagle", "block"])
def test_heads_with_attention_read_what_was_verified_before(name, target, embedding):
    """Another prompt changes the draft."""
    design = design_of(name, target, embedding)
    first = document(7, prompt=3, answer=9)
    features = first.features.clone()
    features[0] = -features[0]
    second = Document(index=7, num_prompt=3, tokens=first.tokens, features=features)
    states = [design.states(batch_of([each]), 1)[0] for each in (first, second)]
    assert not torch.allclose(states[0], states[1], atol=1e-3)


def test_a_window_ends_what_is_read(target, embedding):
    """Rows before it change nothing."""
    design = design_of("window", target, embedding)
    first = document(7, prompt=3, answer=9)
    features = first.features.clone()
    features[0] = -features[0]
    second = Document(index=7, num_prompt=3, tokens=first.tokens, features=features)
    row = 3  # its anchor is place 5, which sees places 4 and 5
    states = [design.states(batch_of([each]), POSITIONS)[-1][0, row] for each in (first, second)]
    torch.testing.assert_close(states[1], states[0])


def test_an_untrained_head_repeats_the_targets_last_distribution(target, embedding):
    """As today's: what an EAGLE-3-like head adds is small at first."""
    torch.manual_seed(3)
    head = EagleHead(target, embedding, intermediate_size=64, eps=EPS, kv_heads=1)
    features = document(7, prompt=3, answer=9).features.float()
    torch.testing.assert_close(head.fused(features), norm(features[:, -1], EPS))


@pytest.mark.parametrize("name", NAMES)
def test_every_design_learns_a_regular_stream(name, target, embedding):
    """Tokens that count upwards are drafted right by each, after the same few tokens of training."""
    documents = [document(index, prompt=3, answer=20, target=target) for index in range(16)]
    design = design_of(name, target, embedding)
    budget = Budget(tokens=2_500, positions=POSITIONS, rows_per_batch=128, learning_rate=3e-3)
    before = draft_all(design, documents[:4], target.draft_token_ids, num_positions=POSITIONS, temperature=0)
    spent = train(design, documents, target, EPS, budget)
    after = draft_all(design, documents[:4], target.draft_token_ids, num_positions=POSITIONS, temperature=0)
    assert spent.tokens >= 2_500
    assert acceptance_length(before, POSITIONS) < 1.5
    assert acceptance_length(after, POSITIONS) > 1.6


def test_a_budget_is_counted_in_tokens_and_the_order_is_the_same_for_all():
    """Two runs see the same batches, and end with the first that reaches the budget."""
    documents = [document(index, prompt=3, answer=10 + index % 5) for index in range(30)]
    runs = [[batch.tokens for batch in batches(documents, Budget(tokens=500, rows_per_batch=64))] for _ in range(2)]
    seen = sum(int(b.is_anchor.sum()) for b in batches(documents, Budget(tokens=500, rows_per_batch=64)))
    assert 500 <= seen < 500 + 64 + 15
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_drafts_are_judged_by_the_text_that_follows(target, embedding):
    """Matches end at the first miss; what the answer no longer has isn't asked for."""
    answer = document(7, prompt=3, answer=6)
    drafted = draft_all(
        design_of("recurrent", target, embedding), [answer], target.draft_token_ids, num_positions=3, temperature=0
    )[0]
    emitted = answer.tokens[4:].tolist()
    assert drafted.possible.tolist() == [3, 3, 3, 2, 1]
    for row, matching in enumerate(drafted.matching.tolist()):
        proposed = drafted.token_ids[row].tolist()
        expected = 0
        while expected < min(3, len(emitted) - row) and proposed[expected] == emitted[row + expected]:
            expected += 1
        assert matching == expected


def test_rates_are_of_the_positions_that_were_reached(target, embedding):
    """A first miss says nothing about the second position."""
    answer = document(7, prompt=3, answer=6)
    drafted = draft_all(
        design_of("recurrent", target, embedding), [answer], target.draft_token_ids, num_positions=2, temperature=0
    )[0]
    matching = drafted.matching.tolist()
    reached = sum(m >= 1 and p >= 2 for m, p in zip(matching, drafted.possible.tolist(), strict=True))
    expected = sum(m == 2 for m in matching) / max(1, reached)
    assert matched_per_position([drafted], 2)[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("matching", "num_draft", "steps"), [([0, 0, 0], 4, 3), ([2, 9, 9, 1, 0], 4, 2), ([3, 0, 0, 0], 1, 3)]
)
def test_steps_take_what_matched_and_one_more(matching, num_draft, steps):
    """As serving does."""
    assert steps_of(matching, num_draft) == steps


def test_a_priced_head_proposes_what_was_drafted_at_that_row(target, embedding):
    """By the request and the number of its tokens; strangers get nothing. A call costs what is stated for it."""
    answer = document(7, prompt=3, answer=6)
    drafted = draft_all(
        design_of("recurrent", target, embedding), [answer], target.draft_token_ids, num_positions=3, temperature=0
    )[0]
    head = PricedHead([drafted], seconds=lambda sequences, tokens: sequences + 0.1 * tokens)

    def asked(request_id, length):
        return DraftContext(
            request_id=request_id,
            token_ids=answer.tokens[:length].tolist(),
            num_prompt_tokens=3,
            hidden=None,
            max_draft_tokens=2,
            seed=0,
            temperature=0.0,
        )

    known, stranger = head.propose([asked("7", 5), asked("8", 5)])
    assert known.token_ids == tuple(drafted.token_ids[1].tolist())
    assert known.confidences == pytest.approx(drafted.sure[1].tolist())
    assert stranger.token_ids == ()
    assert head.stated_seconds == pytest.approx(2.2)


def test_states_are_kept_as_they_are(tmp_path):
    """Documents of different lengths come back from one file."""
    written = [document(7, prompt=3, answer=6), document(9, prompt=1, answer=2)]
    write(tmp_path / "part.safetensors", written)
    for before, after in zip(written, load(tmp_path / "part.safetensors"), strict=True):
        assert (after.index, after.num_prompt) == (before.index, before.num_prompt)
        assert torch.equal(after.tokens, before.tokens)
        assert torch.equal(after.features, before.features)


def test_a_draft_reads_what_is_fixed_once_and_the_rest_for_each_token(target, embedding):
    """Of heads of D = 64, W = 64 and a draft vocabulary of 20; a block's call reads all of it at any length."""
    lm_head, mlp = 20 * D, 3 * 64 * D
    counted = {
        "recurrent": [2 * 64 * D + tokens * (mlp + lm_head) for tokens in (1, 3)],
        "eagle": [3 * D * D + tokens * (3 * 64 * 2 * D + D * D + mlp + lm_head) for tokens in (1, 3)],
        "block": [4 * D * D + 2 * (4 * D * D + mlp) + lm_head] * 2,
    }
    heads = {name: design_of(name, target, embedding) for name in counted}
    heads["recurrent"] = heads["recurrent"].head
    assert {name: [weights_read(head, tokens) for tokens in (1, 3)] for name, head in heads.items()} == counted
    with pytest.raises(TypeError, match="what a Linear reads"):
        weights_read(torch.nn.Linear(1, 1), 1)
