"""A learnable target, and settings of a run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bowsprit_engine.config import TrainSettings
from bowsprit_engine.model_settings import DrafterChoice
from training.learnable import LearnableModel, LearnableRunner


@pytest.fixture
def runner() -> LearnableRunner:
    return LearnableRunner()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """A run on the learnable target, whose control port is any free one of loopback."""
    model = LearnableModel(runner=LearnableRunner())
    monkeypatch.setattr("bowsprit_engine.training.run.open_model", lambda path, *, num_threads: model)
    (tmp_path / "capture").mkdir()
    return TrainSettings(
        host="127.0.0.1",
        control_port=0,
        model="/models/learnable",
        capture_uri=str(tmp_path / "capture"),
        output_uri=str(tmp_path / "speculators" / "m-head-1"),
        revision="m-head-1",
        min_holdout_requests=40,
        draft_tokens=3,
        beside=(DrafterChoice.read("ngram=NGram"),),
        deadline_seconds=3600,  # of the wall clock: no machine is so busy
        termination_log=tmp_path / "result.json",
    )
