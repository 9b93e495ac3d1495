"""How sure a head says it is, against what became of its drafts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.speculation.drafters.serving_head import ServingHead, serving_head
from bowsprit_engine.training import artifact, calibration
from training.learnable import DIGEST, LearnableRunner, recorded, states_of
from training.learned_head import DRAFT_TOKEN_IDS, learned, write


@pytest.fixture(scope="module")
def doubtful() -> tuple[LearnableRunner, ServingHead]:
    """A trained head that tokens outside its vocabulary surprise, with its validation requests' temperature."""
    runner = LearnableRunner()
    head = serving_head(learned(runner), DRAFT_TOKEN_IDS, runner, revision="r")
    validation = [states_of(runner, request) for request in recorded(runner, 32, seed=11)]
    temperature = calibration.fit_temperature(head, validation, num_draft_tokens=3)
    return runner, replace(head, confidence_temperature=temperature)


def outcomes(runner: LearnableRunner, head: ServingHead) -> calibration.Outcomes:
    """Of requests that neither trained nor calibrated."""
    held_out = [states_of(runner, request) for request in recorded(runner, 48, seed=12)]
    return calibration.outcomes(head, held_out, num_draft_tokens=3)


def test_drafts_match_as_often_as_they_were_said_to(doubtful: tuple[LearnableRunner, ServingHead]) -> None:
    """Over all, and on average over four groups from the least to the most sure: 0.05 and 0.08."""
    found = outcomes(*doubtful)
    order = found.confidences.argsort()
    groups = [(found.confidences[part].mean(), found.matched[part].float().mean()) for part in order.chunk(4)]
    assert 0.05 < found.matched.float().mean() < 0.95  # there is something to be wrong about
    assert found.confidences.mean().item() == pytest.approx(found.matched.float().mean().item(), abs=0.05)
    assert sum(abs(said - came) for said, came in groups) / len(groups) < 0.08


def test_the_surer_half_matches_more(doubtful: tuple[LearnableRunner, ServingHead]) -> None:
    """Else being sure says nothing."""
    found = outcomes(*doubtful)
    less, more = found.matched[found.confidences.argsort()].float().chunk(2)
    assert more.mean() > less.mean() + 0.05


def test_the_fitted_temperature_is_better_than_a_wrong_one(doubtful: tuple[LearnableRunner, ServingHead]) -> None:
    """Logits made three times as large are told by the fit."""
    runner, head = doubtful
    trained = learned(runner)
    with torch.no_grad():
        trained.output_scale *= 3
    loud = serving_head(trained, DRAFT_TOKEN_IDS, runner, revision="loud")
    validation = [states_of(runner, request) for request in recorded(runner, 32, seed=11)]
    fitted = calibration.fit_temperature(loud, validation, num_draft_tokens=3)
    assert fitted == pytest.approx(3 * head.confidence_temperature, rel=0.2)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 100.0])
def test_confidences_are_probabilities_that_fall_with_the_heads_temperature(
    doubtful: tuple[LearnableRunner, ServingHead], temperature: float
) -> None:
    """Finite, within 0 and 1, one for each token, at any sampling temperature."""
    runner, head = doubtful
    asked = [
        DraftContext(
            request_id=str(n),
            token_ids=(request.response_token_ids[0],),
            hidden=states_of(runner, request).hidden[0],
            max_draft_tokens=3,
            seed=n,
            temperature=temperature,
        )
        for n, request in enumerate(recorded(runner, 16, seed=13))
    ]
    drafts = head.draft(asked)
    doubled = replace(head, confidence_temperature=2 * head.confidence_temperature).draft(asked)
    sure, less_sure = (torch.tensor([draft.confidences for draft in each]) for each in (drafts, doubled))
    assert [draft.token_ids for draft in drafts] == [draft.token_ids for draft in doubled]
    assert bool(((sure > 0) & (sure <= 1) & (less_sure <= sure)).all())


def test_states_that_are_not_finite_are_drafted_from_without_any_confidence(
    doubtful: tuple[LearnableRunner, ServingHead],
) -> None:
    """A number that is none must not reach whoever compares confidences."""
    runner, head = doubtful
    hidden = torch.full((runner.config.hidden_size,), torch.nan)
    context = DraftContext(request_id="r", token_ids=(1,), hidden=hidden, max_draft_tokens=2, seed=0, temperature=0.0)
    assert [draft.confidences for draft in head.draft([context])] == [(0.0, 0.0)]


def test_the_temperature_is_kept_with_the_head(tmp_path: Path) -> None:
    """Drafts of a loaded head are as sure as its configuration says; a folder without one means 1."""
    runner = LearnableRunner()
    write(tmp_path / "r", runner, learned(runner))
    path = tmp_path / "r" / artifact.CONFIG_FILE
    stored = json.loads(path.read_text())

    def kept(config: dict[str, object]) -> float:
        path.write_text(json.dumps(config))
        return HeadDrafter(name="head", runner=runner).load(tmp_path / "r", None, "r", DIGEST).confidence_temperature

    without = {key: value for key, value in stored.items() if key != "confidence_temperature"}
    assert (kept(stored | {"confidence_temperature": 2.5}), kept(without)) == (2.5, 1.0)
