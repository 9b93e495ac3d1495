"""Every part of `make gpu-check` in small, in the interpreter, so that it runs when a GPU is there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bench import gpu_check
from bench.gpu import checks, decoding
from bench.gpu.scale import FULL, SMALL
from bowsprit_engine.core.runner import ModelOutput
from bowsprit_engine.kernels import ngram
from bowsprit_engine.models.memory import num_parameters
from bowsprit_engine.models.step_graphs import BUCKETS

CPU = torch.device("cpu")


def test_without_a_gpu_it_says_so_and_fails(tmp_path, capsys):
    """No report that looks like one."""
    assert not torch.cuda.is_available()

    assert gpu_check.main(["--output", str(tmp_path / "report.md")]) == gpu_check.NO_DEVICE
    assert "no CUDA device is here" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("Checks", "| ngram ("),
        ("Bandwidth", "| attention, 2 x 3 rows |"),
        ("Our steps and tokens per second", "| 2 | 0.8 | 3 | 0.70 |"),
        ("torch's own operators", "| batch | n = 1 | n = 3 |"),
        ("transformers", "generate, greedy"),
    ],
)
def test_every_part_runs_and_fails_nothing(part, words):
    """Kernels agree with their references, speculation changes no text, and each table has its rows."""
    check = gpu_check.GpuCheck(SMALL, CPU)

    section = check.section(part)

    assert check.failed == [], section
    assert "**" not in section
    assert words in section


def test_a_part_that_breaks_costs_no_other(monkeypatch):
    """Its traceback stands where its table would, and the check as a whole fails."""
    monkeypatch.setattr(gpu_check.checks, "run_checks", lambda *_: 1 / 0)
    check = gpu_check.GpuCheck(SMALL, CPU)

    assert "ZeroDivisionError" in check.section("Checks")
    assert check.failed == ["Checks"]


def test_a_wrong_kernel_fails_the_check(monkeypatch):
    """The report names it."""
    right = ngram.look_up

    def wrong(*arguments, **options):
        drafts, has_draft = right(*arguments, **options)
        return drafts + 1, has_draft

    monkeypatch.setattr(ngram, "look_up", wrong)

    failed = [check.name for check in checks._look_up(SMALL, checks._Inputs(SMALL, CPU)) if not check.is_ok]

    assert failed == ["ngram (elements that differ)"]


def test_a_nan_is_an_error():
    """NaN compares false with any limit."""
    assert not checks.Check(name="x", error=float("nan"), limit=1.0).is_ok


class Counting:
    """A target whose next token is the last one plus one, whatever the step: what a runner looks like to `decode`."""

    def forward(self, batch):
        logits = torch.nn.functional.one_hot((batch.token_ids + 1) % 50, 50).float()
        return ModelOutput(logits=logits, hidden=logits)


@pytest.mark.parametrize(("acceptance", "num_steps"), [(1.0, 2), (0.0, 9)])
def test_the_stand_in_drafter_is_right_as_often_as_asked(acceptance, num_steps):
    """Always right: 9 tokens after the first come in steps of 5 and 4; never right: one by one. The text is equal."""
    true = tuple(range(4, 14))

    decoded = decoding.decode(
        Counting(),
        [[2, 3]],
        num_tokens=10,
        num_draft_tokens=4,
        propose=decoding.stand_in([true], acceptance=acceptance, vocab_size=50),
        temperature=0.0,
        device=CPU,
    )

    assert (decoded.answers, decoded.num_steps) == ((true,), num_steps)


def test_it_needs_nothing_that_a_bare_machine_lacks():
    """Torch, Triton, numpy: neither pydantic, safetensors, tokenizers nor what serves requests is imported."""
    missing = ("pydantic", "safetensors", "tokenizers", "gguf", "fastapi", "typer", "rich", "llguidance", "pyarrow")
    program = f"import sys\nfor name in {missing!r}: sys.modules[name] = None\nimport bench.gpu_check"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=290)

    assert done.returncode == 0, done.stderr


def test_the_full_scale_is_the_published_shape():
    """8.03 billion parameters; all of its grid has a graph."""
    assert round(num_parameters(FULL.config) / 1e9, 2) == 8.03
    assert max(FULL.batches) * max(FULL.rows_per_sequence) <= BUCKETS[-1]
