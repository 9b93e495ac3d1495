"""A whole training run: what it leaves behind, and how every way to fail is told."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from bowsprit_engine.config import TrainSettings
from bowsprit_engine.model_settings import DrafterChoice
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.server.progress import progress_port
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.training import artifact, job, material, teaching
from bowsprit_engine.training.deadline import TRAINING_UNTIL
from bowsprit_engine.training.progress import Tracker
from bowsprit_policy.wire import Evaluation, TrainingPhase, TrainingProgress, TrainingResult
from training.learnable import DIGEST, LearnableRunner, recorded, write_shard


def result_of(settings: TrainSettings) -> TrainingResult:
    assert settings.termination_log is not None
    return TrainingResult.model_validate_json(settings.termination_log.read_text())


def capture_folder(settings: TrainSettings) -> Path:
    return resolve_uri(settings.capture_uri)


def output_folder(settings: TrainSettings) -> Path:
    return resolve_uri(settings.output_uri)


@pytest.fixture(autouse=True)
def _a_quick_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps small and many enough for a tiny target."""
    monkeypatch.setattr(teaching, "ROWS_PER_BATCH", 96)
    monkeypatch.setattr(teaching, "LEARNING_RATE", 5e-3)


def test_learnable_traffic_makes_a_speculator_that_gains(settings: TrainSettings, runner: LearnableRunner) -> None:
    """It is stored with its evaluation, and the engine's drafter loads it by the sha256 that was told."""
    write_shard(capture_folder(settings), recorded(runner, 160))
    assert job.run(settings) == 0
    result = result_of(settings)
    assert (result.succeeded, result.reason, result.revision, result.model_digest) == (
        True,
        "Evaluated",
        "m-head-1",
        DIGEST,
    )
    assert result.artifact is not None
    assert result.evaluation is not None
    assert result.evaluation.recent.gain.low > 0.5
    assert result.evaluation.recent.gain.requests == 40
    stored = Evaluation.model_validate_json((output_folder(settings) / artifact.EVALUATION_FILE).read_text())
    assert stored == result.evaluation
    drafter = HeadDrafter(name="head", runner=LearnableRunner())
    drafter.swap_in(drafter.load(output_folder(settings), result.artifact.sha256, "m-head-1", DIGEST))
    assert drafter.revision == "m-head-1"


def test_what_is_to_be_bettered_is_the_pool_that_serves(settings: TrainSettings, runner: LearnableRunner) -> None:
    """Look-up in the answers of training requests too: on traffic that repeats itself a head has little to add."""
    write_shard(capture_folder(settings), recorded(runner, 160))
    alone = settings.model_copy(update={"beside": (DrafterChoice.read("suffix=Suffix"),)})
    assert job.run(alone) == 0
    evaluation = result_of(alone).evaluation
    assert evaluation is not None
    assert evaluation.recent.incumbent.mean > 2.5


def test_the_result_tells_what_was_read(settings: TrainSettings, runner: LearnableRunner) -> None:
    """Shards, requests on each side, tokens, the window and what could not be read."""
    write_shard(capture_folder(settings), recorded(runner, 60))
    write_shard(capture_folder(settings), recorded(runner, 60, seed=1))
    (capture_folder(settings) / "x-000009.parquet").write_bytes(b"PAR1 torn")
    assert job.run(settings) == 0
    window = result_of(settings).data
    assert window is not None
    assert (window.shards, window.unreadable_shards) == (2, 1)
    assert (window.requests_holdout, window.requests_train, window.tokens) == (40, 80, 120 * 16)


def test_unpredictable_traffic_gains_next_to_nothing(settings: TrainSettings, runner: LearnableRunner) -> None:
    """The run succeeds and says so with both numbers: rejecting it is the gate's work."""
    write_shard(capture_folder(settings), recorded(runner, 160, is_random=True))
    assert job.run(settings) == 0
    evaluation = result_of(settings).evaluation
    assert evaluation is not None
    assert evaluation.recent.gain.low < 0.02
    assert evaluation.recent.candidate.mean < 1.2
    assert evaluation.recent.incumbent.mean < 1.1


def test_a_second_run_starts_from_its_parent_and_is_compared_with_it(
    settings: TrainSettings, runner: LearnableRunner
) -> None:
    """The incumbent's figures are those that the first run gave its candidate."""
    write_shard(capture_folder(settings), recorded(runner, 160))
    assert job.run(settings) == 0
    first = result_of(settings)
    assert first.artifact is not None
    assert first.evaluation is not None
    again = settings.model_copy(
        update={
            "revision": "m-head-2",
            "output_uri": settings.output_uri.replace("m-head-1", "m-head-2"),
            "parent_uri": settings.output_uri,
            "parent_sha256": first.artifact.sha256,
            "parent_revision": "m-head-1",
        }
    )
    assert job.run(again) == 0
    second = result_of(again)
    assert second.evaluation is not None
    assert second.parent == "m-head-1"
    assert second.evaluation.recent.incumbent == first.evaluation.recent.candidate
    assert second.evaluation.recent.candidate.mean >= first.evaluation.recent.candidate.mean


def test_a_base_sample_is_judged_beside_the_recent_traffic(
    settings: TrainSettings, runner: LearnableRunner, tmp_path: Path
) -> None:
    """With as many held-out requests of its own."""
    write_shard(capture_folder(settings), recorded(runner, 120))
    write_shard(tmp_path / "base", recorded(runner, 120, seed=8))
    assert job.run(settings.model_copy(update={"base_uri": str(tmp_path / "base")})) == 0
    evaluation = result_of(settings).evaluation
    assert evaluation is not None
    assert evaluation.base is not None
    assert evaluation.base.gain.requests == 40


def test_nothing_but_unreadable_shards_fails_and_names_one(settings: TrainSettings) -> None:
    """With the reader's reason."""
    for number in range(3):
        (capture_folder(settings) / f"pod-00000{number}.parquet").write_bytes(b"torn")
    assert job.run(settings) == 1
    result = result_of(settings)
    assert (result.succeeded, result.reason) == (False, "UnreadableShards")
    assert "none of the 3 shards" in result.message
    assert ".parquet: not a readable shard" in result.message


def test_too_few_requests_fail_with_both_numbers(settings: TrainSettings, runner: LearnableRunner) -> None:
    """And with the shard that might have held more."""
    write_shard(capture_folder(settings), recorded(runner, 50))
    (capture_folder(settings) / "x-000009.parquet").write_bytes(b"torn")
    assert job.run(settings) == 1
    result = result_of(settings)
    assert result.reason == "NotEnoughRequests"
    assert "50 distinct captured requests, 104 needed" in result.message
    assert "1 shards can't be read: x-000009.parquet" in result.message


def test_traffic_of_another_model_does_not_count(settings: TrainSettings, runner: LearnableRunner) -> None:
    """Its tokens are another target's."""
    write_shard(capture_folder(settings), recorded(runner, 160), digest="e" * 64)
    assert job.run(settings) == 1
    assert "0 distinct captured requests" in result_of(settings).message


@pytest.mark.parametrize(("num_tokens", "times"), [(5_000, 6), (50_000, 6), (100_000, 3), (400_000, 1)])
def test_much_traffic_is_seen_less_often(num_tokens: int, times: int) -> None:
    """A run takes as long with 100,000 tokens as with 50,000, and every token is seen."""
    assert teaching.num_epochs(num_tokens) == times


def test_a_run_learns_from_what_it_has_time_for_and_says_how_much(
    settings: TrainSettings, runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass over 88 requests, of which time is left for 27: those and the 32 that validate are in the record."""
    write_shard(capture_folder(settings), recorded(runner, 160))
    monkeypatch.setattr(teaching, "MAX_SEEN_TOKENS", 1)
    seconds = 1e6
    is_enough_for = 27.9 * 10
    per_token = seconds * TRAINING_UNTIL * teaching.SHARE_OF_TIME / is_enough_for
    monkeypatch.setattr("bowsprit_engine.training.loop.seconds_per_token", lambda *args, **kwargs: per_token)
    assert job.run(settings.model_copy(update={"deadline_seconds": seconds})) == 0
    result = result_of(settings)
    assert result.data is not None
    assert result.message.endswith("27 requests trained")
    assert (result.data.requests_train, result.data.tokens) == (27 + 32, (27 + 32 + 40) * 16)


def test_much_traffic_is_judged_on_the_way(
    settings: TrainSettings, runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress has an acceptance length long before the only pass ends, and every step is told."""
    write_shard(capture_folder(settings), recorded(runner, 160))
    monkeypatch.setattr(teaching, "MAX_SEEN_TOKENS", 1)
    monkeypatch.setattr(teaching, "TOKENS_PER_VALIDATION", 300)
    steps, judged = [], []
    step = Tracker.step

    def spied(tracker: Tracker, done: int, **known: Any) -> None:
        step(tracker, done, **known)
        if tracker.current().phase == TrainingPhase.TRAINING:
            (judged if "acceptance_length" in known else steps).append(done)

    monkeypatch.setattr(Tracker, "step", spied)
    assert job.run(settings) == 0
    assert (steps, judged) == (list(range(1, 10)), [0, 4, 8, 9])


def test_a_missing_capture_folder_is_named(settings: TrainSettings) -> None:
    """As a failure of the world, with its path."""
    capture_folder(settings).rmdir()
    assert job.run(settings) == 1
    result = result_of(settings)
    assert result.reason == "CaptureUnreadable"
    assert settings.capture_uri in result.message


def test_sigterm_ends_the_run_with_a_result(
    settings: TrainSettings, runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says in which phase, and leaves nothing behind at the output."""
    write_shard(capture_folder(settings), recorded(runner, 160))

    def killed(*arguments: object, **settings: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("bowsprit_engine.training.loop.train", killed)
    assert job.run(settings) == 1
    result = result_of(settings)
    assert (result.succeeded, result.reason) == (False, "Terminated")
    assert result.message.endswith("while Training")
    assert not output_folder(settings).exists()


def test_a_failure_at_storing_leaves_no_half_written_folder(
    settings: TrainSettings, runner: LearnableRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full volume is told with its path."""
    write_shard(capture_folder(settings), recorded(runner, 120))

    def full(staged: Path, final: Path, evaluation: Evaluation) -> None:
        raise OSError(28, "No space left on device", str(staged))

    monkeypatch.setattr(artifact, "publish", full)
    assert job.run(settings) == 1
    result = result_of(settings)
    assert result.reason == "StorageFailed"
    assert "No space left on device" in result.message
    assert list(output_folder(settings).parent.iterdir()) == []


def test_an_unforeseen_failure_is_a_result_too(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its type and the phase."""

    def broken(*arguments: object, **settings: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(material, "read_shards", broken)
    assert job.run(settings) == 1
    result = result_of(settings)
    assert (result.reason, result.message) == ("InternalError", "while Loading: KeyError: 'surprise'")


def test_a_result_fits_into_a_termination_message(settings: TrainSettings) -> None:
    """However long the cause is told, and in whatever script."""
    job.write_result(settings.termination_log, TrainingResult(succeeded=False, reason="X", message="é" * 5000))
    assert settings.termination_log is not None
    assert settings.termination_log.stat().st_size <= job.MAX_RESULT_BYTES
    assert result_of(settings).reason == "X"


def test_progress_is_served_while_the_run_works(settings: TrainSettings) -> None:
    """The control port answers with the run's phase, step and acceptance length."""
    tracker = Tracker()
    tracker.enter(TrainingPhase.TRAINING, "1,000 weights", steps=10)
    tracker.step(4, acceptance_length=2.5)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with progress_port(settings.model_copy(update={"control_port": port}), tracker.current):
        body = httpx.get(f"http://127.0.0.1:{port}/control/v1/progress", trust_env=False).json()
    assert TrainingProgress.model_validate(body) == TrainingProgress(
        phase=TrainingPhase.TRAINING, step=4, steps=10, acceptance_length=2.5, message="1,000 weights"
    )
