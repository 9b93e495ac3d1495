"""The target's states on a disk: what comes back, what is refused, and what a killed run leaves."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from bowsprit_engine.config import TrainSettings
from bowsprit_engine.errors import WorldError
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.training import features, job, loop
from bowsprit_engine.training.data import RequestRows, split
from bowsprit_engine.training.deadline import Deadline
from bowsprit_engine.training.head import HeadShape, RecurrentHead
from bowsprit_engine.training.loop import LoopSettings, Outcome
from bowsprit_engine.training.loss import LossWeights
from bowsprit_engine.training.selection import choose
from bowsprit_engine.training.states import CHECK_EVERY, StateFile
from bowsprit_policy.wire import TrainingResult
from training.learnable import (
    EPS,
    HIDDEN,
    VOCAB,
    LearnableRunner,
    recorded,
    states_of,
    target_rows,
    write_shard,
)

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    """In any order, of requests of any length, also where rows were a part of a larger tensor."""
    rows = torch.randn(40, 24).to(dtype)
    parts = [rows[:1], rows[1:17], rows[17:40, :], rows[3:9]]
    with StateFile(tmp_path, num_bytes=1 << 20) as file:
        stored = [file.append(part) for part in parts]
        for number in (2, 0, 3, 1, 2):
            stored[number].will_read()
            assert torch.equal(stored[number].read().view(torch.uint8), parts[number].view(torch.uint8))


def test_nothing_can_be_seen_of_the_file_from_the_first_byte_on(tmp_path: Path) -> None:
    """It has no name that could outlive the run."""
    with StateFile(tmp_path / "new", num_bytes=1 << 20) as file:
        file.append(torch.ones(10, 8))
        assert list((tmp_path / "new").iterdir()) == []


def test_a_killed_process_gives_its_bytes_back(tmp_path: Path) -> None:
    """By SIGKILL, right after 64 MiB were written and flushed."""
    script = """
import os, signal, sys
from pathlib import Path
import torch
from bowsprit_engine.training.states import StateFile
file = StateFile(Path(sys.argv[1]), num_bytes=1 << 26)
file.append(torch.ones(1 << 14, 1 << 10))
print(os.fstat(file._file.fileno()).st_nlink, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "0\n")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a byte is written."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 << 30, 9 << 30, 1 << 30))
    with pytest.raises(WorldError, match=r"states take 2\.00 GiB at .*scratch: 1\.00 GiB are free") as raised:
        StateFile(tmp_path / "scratch", num_bytes=2 << 30)
    assert raised.value.reason == "InsufficientStorage"


def test_no_more_is_written_than_was_announced(tmp_path: Path) -> None:
    """What was checked against the disk is what it takes."""
    with StateFile(tmp_path, num_bytes=100) as file:
        file.append(torch.ones(3, 8))
        with pytest.raises(ValueError, match=r"96 \+ 32 bytes of states, 100 were announced"):
            file.append(torch.ones(1, 8))


def test_a_file_that_was_cut_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    """With how much is missing."""
    with StateFile(tmp_path, num_bytes=1 << 10) as file:
        stored = file.append(torch.ones(4, 8))
        os.ftruncate(file._file.fileno(), 100)
        with pytest.raises(OSError, match="ends at byte 100, 28 bytes early"):
            stored.read()


def trained_on(requests: list[RequestRows], runner: LearnableRunner) -> tuple[RecurrentHead, Outcome]:
    target = target_rows(runner, torch.arange(VOCAB))
    torch.manual_seed(0)
    head = RecurrentHead(HeadShape(hidden_size=HIDDEN, intermediate_size=16, rms_norm_eps=EPS), target)
    outcome = loop.train(
        head,
        target=target,
        requests=requests,
        embed=runner.embed,
        judge=lambda trained: trained.down.norm().item(),
        settings=LoopSettings(loss=LossWeights(unroll=2), rows_per_batch=48, max_epochs=3),
        clock=lambda: 0.0,
    )
    return head, outcome


def test_a_head_learns_the_same_from_the_disk_as_from_memory(runner: LearnableRunner, tmp_path: Path) -> None:
    """Every weight, bit for bit."""
    sides = split(recorded(runner, 150), min_holdout_requests=40)
    chosen = choose(sides, None, hidden_size=HIDDEN, max_state_bytes=1 << 30)
    with StateFile(tmp_path, num_bytes=chosen.state_bytes(HIDDEN)) as file:
        found = features.compute(runner, chosen, file, deadline=Deadline(elapsed=lambda: 0.0, seconds=9.0))
        on_disk, outcome = trained_on(list(found.train), runner)
    in_memory = []
    for request in chosen.train:
        states = states_of(runner, request)
        in_memory.append(
            type(states)(
                prompt_token_ids=states.prompt_token_ids,
                token_ids=states.token_ids,
                hidden=states.hidden.bfloat16(),
            )
        )
    expected, expected_outcome = trained_on(list(in_memory), runner)
    assert outcome.checkpoints[1:] == expected_outcome.checkpoints[1:]
    assert all(torch.equal(value, on_disk.state_dict()[name]) for name, value in expected.state_dict().items())


def result_of(settings: TrainSettings) -> TrainingResult:
    assert settings.termination_log is not None
    return TrainingResult.model_validate_json(settings.termination_log.read_text())


@pytest.fixture
def scratched(settings: TrainSettings, runner: LearnableRunner, tmp_path: Path) -> TrainSettings:
    write_shard(resolve_uri(settings.capture_uri), recorded(runner, 120))
    return settings.model_copy(update={"scratch_dir": tmp_path / "scratch", "draft_tokens": 2})


def test_a_run_whose_states_find_no_room_fails_before_it_reads_weights(
    scratched: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 answers of ten tokens: 72 judge in float32, 48 train in bfloat16."""
    monkeypatch.setattr("training.learnable.LearnableModel.load", lambda model: pytest.fail("loaded"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 0))
    assert job.run(scratched) == 1
    result = result_of(scratched)
    assert result.reason == "InsufficientStorage"
    assert "0 MiB are free beside the 0 MiB that are written" in result.message


@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [
        (errno.ENOSPC, "InsufficientStorage", "No space left on device after 0 MiB. --scratch-dir names another place"),
        (errno.EDQUOT, "InsufficientStorage", "Disk quota exceeded after 0 MiB. --scratch-dir names another place"),
        (errno.EIO, "StorageFailed", "while Features: [Errno 5] Input/output error"),
    ],
)
def test_a_disk_that_is_full_in_the_middle_of_a_run_is_told_from_one_that_fails(
    scratched: TrainSettings, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, words: str
) -> None:
    """Somebody else filled it. The refusal says what to do, and nothing is left."""

    def fails(descriptor: int, content: bytes, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fails)
    assert job.run(scratched) == 1
    result = result_of(scratched)
    assert result.reason == reason
    assert words in result.message
    assert list((scratched.scratch_dir or Path()).iterdir()) == []


def test_a_limit_of_the_file_system_is_told_with_what_was_written(tmp_path: Path) -> None:
    """By a real one, on the size of a file: 100 KiB of the 128 that were announced."""
    script = """
import resource, signal, sys
from pathlib import Path
import torch
from bowsprit_engine.errors import WorldError
from bowsprit_engine.training.states import StateFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, 100 << 10))
with StateFile(Path(sys.argv[1]), num_bytes=128 << 10) as file:
    try:
        for _ in range(4):
            file.append(torch.ones(8, 1 << 10))
    except WorldError as error:
        print(error.reason, error, sep="|")
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    reason, message = ended.stdout.split("|")
    assert reason == "InsufficientStorage"
    assert f"the target's states take 0 MiB at {tmp_path}: File too large after 0 MiB. --scratch-dir" in message
    assert list(tmp_path.iterdir()) == []


def test_room_is_asked_for_while_states_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 64 MiB: the rest is refused before the disk is full for everybody on it."""
    free = [4 * CHECK_EVERY, 4 * CHECK_EVERY, CHECK_EVERY]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 1 << 40, free.pop(0)))
    quarter = torch.zeros(1, CHECK_EVERY // 16)
    with StateFile(tmp_path, num_bytes=4 * CHECK_EVERY) as file:
        for _ in range(7):
            file.append(quarter)
        assert free == [CHECK_EVERY]
        with pytest.raises(WorldError, match="64 MiB are free beside the 128 MiB that are written") as raised:
            file.append(quarter)
    assert raised.value.reason == "InsufficientStorage"


def test_a_run_that_begins_again_after_a_kill_leaves_one_folder(scratched: TrainSettings) -> None:
    """What the killed one had staged beside the output goes; nothing else there is touched."""
    output = resolve_uri(scratched.output_uri)
    (output.parent / f".{output.name}.4711.tmp").mkdir(parents=True)
    (output.parent / f".{output.name}.4711.tmp" / "model.safetensors").write_bytes(b"half")
    others = [".m-head-1.b.4711.tmp", ".m-head-10.4711.tmp"]
    for name in others:
        (output.parent / name).mkdir()
    assert job.run(scratched) == 0
    assert sorted(path.name for path in output.parent.iterdir()) == [*others, "m-head-1"]
    assert list((scratched.scratch_dir or Path()).iterdir()) == []
