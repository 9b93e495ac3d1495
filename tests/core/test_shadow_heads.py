"""Trained heads in the second buffer: weights on disk, the self-test, and the target's own states and noise."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.training import artifact
from bowsprit_engine.training.head import RecurrentHead
from bowsprit_policy.wire import DrafterLoad, DrafterRole, DrafterState
from training.learnable import DIGEST, LearnableRunner, recorded, states_of, target_rows
from training.learned_head import DRAFT_TOKEN_IDS, SHAPE, learned, write

GREEDY = {"max_tokens": 120, "ignore_eos": True}
# The noise decides, mostly: a head that has learned nothing draws the same token in half of the places.
SAMPLED = {"max_tokens": 120, "ignore_eos": True, "temperature": 35.0, "seed": 5}


@pytest.fixture(scope="module")
def trained():
    runner = LearnableRunner()
    return runner, learned(runner)


@pytest.fixture
def claims(trained, tmp_path, monkeypatch):
    """Folders by name: `good`, and `weak`, whose self-test asks for nothing since it has learned nothing."""
    runner, head = trained
    monkeypatch.setattr("bowsprit_engine.core.revisions.resolve_uri", lambda uri: tmp_path / uri)
    monkeypatch.setattr("bowsprit_engine.speculation.shadow.SHARE", 1e9)
    write(tmp_path / "good", runner, head)
    torch.manual_seed(1)
    write(tmp_path / "weak", runner, RecurrentHead(SHAPE, target_rows(runner, DRAFT_TOKEN_IDS)))
    monkeypatch.setattr("bowsprit_engine.speculation.drafters.head.chance", lambda _: 0.0)
    return tmp_path


@pytest.fixture
def served(serve, trained, claims):
    """The weak head serves."""
    runner, _ = trained
    drafter = HeadDrafter(name="head", runner=runner)
    served = serve(runner=runner, drafters=[drafter], speculation_mode=3, model_digest=DIGEST, max_batch_size=1)
    served.engine.load_drafter("head", DrafterLoad(revision="weak", uri="weak"))
    return served


def shadow(revision, **more):
    return DrafterLoad(revision=revision, uri=revision, role=DrafterRole.SHADOW, **more)


@pytest.mark.parametrize(
    ("asked", "least", "ahead"), [(GREEDY, 0.9, 0.1), (SAMPLED, 0.4, 0.0)], ids=["greedy", "sampled"]
)
def test_a_trained_head_is_seen_to_be_better_before_it_serves_anybody(served, asked, least, ahead):
    """On the same places, by the same noise (chance is 1 in 96); and what was seen is what it does when it serves."""
    before = served.submit("before", [5, 6, 7, 8], **asked).wait().token_ids
    served.engine.load_drafter("head", shadow("good"))
    beside = served.submit("beside", [5, 6, 7, 8], **asked).wait().token_ids
    told = served.engine.drafters()[0].shadow
    served.engine.load_drafter("head", DrafterLoad(revision="good"))
    after = served.submit("after", [5, 6, 7, 8], **asked).wait().token_ids
    promoted = served.engine.drafters()[0]

    assert before == beside == after
    assert told.candidate.reached[0] == told.incumbent.reached[0] == told.sequence_steps > 10
    seen, was, is_now = (
        sum(scores.matched[:1]) / scores.reached[0] for scores in (told.candidate, told.incumbent, promoted)
    )
    assert seen > max(least, was + ahead)
    assert is_now == pytest.approx(seen, abs=0.15)


def test_promotion_needs_the_file_no_more(served, claims):
    """The folder may be gone: the weights are in the second buffer."""
    served.engine.load_drafter("head", shadow("good"))
    shutil.rmtree(claims / "good")
    promoted = served.engine.load_drafter("head", DrafterLoad(revision="good", uri="good"))
    assert (promoted.revision, promoted.state, promoted.shadow) == ("good", DrafterState.ACTIVE, None)
    assert len(served.submit("r", [5, 6, 7, 8], **GREEDY).wait().token_ids) == 120
    assert served.engine.drafters()[0].accepted_tokens > 30


def test_the_second_buffer_drafts_what_it_will_draft_in_use(trained, claims):
    """By the same function of the same state, whatever serves meanwhile."""
    runner, _ = trained
    serving, alone = (HeadDrafter(name="head", runner=runner) for _ in range(2))
    serving.swap_in(serving.load(claims / "weak", None, "weak", DIGEST))
    weights = serving.load_beside(claims / "good", None, "good", DIGEST)
    alone.swap_in(alone.load(claims / "good", None, "good", DIGEST))
    asked = [
        DraftContext(
            request_id="r",
            token_ids=(*request.prompt_token_ids, request.response_token_ids[0]),
            hidden=states_of(runner, request).hidden[0],
            max_draft_tokens=3,
            seed=7,
            temperature=0.8,
        )
        for request in recorded(runner, 5, seed=3)
    ]
    assert serving.propose_by(weights, asked) == alone.propose(asked) != serving.propose(asked)
    assert serving.revision == "weak"


def _config(key, value):
    def spoil(folder):
        path = folder / artifact.CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return spoil


def _weights(**tensors):
    def spoil(folder):
        path = folder / artifact.WEIGHTS_FILE
        known = load_file(path)
        save_file(known | {name: change(known[name]) for name, change in tensors.items()}, path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sha256", "reason", "words"),
    [
        (lambda folder: None, "b" * 64, "ChecksumMismatch", f"wanted {'b' * 64}"),
        (_config("target_model_digest", "e" * 64), None, "DigestMismatch", f"found {'e' * 64}, wanted {DIGEST}"),
        (_config("hidden_size", 33), None, "ShapeMismatch", "hidden size: found 33, wanted 32"),
        (_config("target_vocab_size", 97), None, "VocabularyMismatch", "found 97, wanted 96"),
        (_weights(down=lambda t: torch.full_like(t, torch.nan)), None, "NotFinite", "found 2048, wanted 0"),
        (_weights(output_scale=torch.zeros_like), None, "SelfTestFailed", r"hits .*%.*, needs .*%"),
    ],
)
@pytest.mark.parametrize("is_serving", [True, False], ids=["beside one that serves", "alone"])
def test_a_shadow_is_refused_as_one_to_serve_is_and_nobody_is_broken_by_it(
    served, claims, spoil, sha256, reason, words, is_serving
):
    """With both values; the drafter's state is the one that it had, also where it is Empty."""
    if not is_serving:
        served.engine.load_drafter("head", DrafterLoad(revision=None))
    before = served.engine.drafters()
    spoil(claims / "good")
    with pytest.raises(SpeculatorError, match=words) as raised:
        served.engine.load_drafter("head", shadow("good", sha256=sha256))
    assert raised.value.reason == reason
    assert served.engine.drafters() == before
