"""Every part of `make gpu-check` in small, in the interpreter, so that it runs when a GPU is there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bench import gpu_check
from bench.gpu import checks, decoding, parts, speed
from bench.gpu.records import Bandwidth, Check, Decoding, EngineRun, Note, PeerSpeed, StepTime, faults
from bench.gpu.scale import FULL, ODD, QUICK, SMALL
from bowsprit_engine.core.runner import ModelOutput
from bowsprit_engine.kernels import ngram
from bowsprit_engine.models.memory import num_parameters
from bowsprit_engine.models.step_graphs import BUCKETS

CPU = torch.device("cpu")


def test_without_a_gpu_it_says_so_and_fails(tmp_path, capsys):
    """No report that looks like one."""
    assert not torch.cuda.is_available()

    assert gpu_check.main(["--output", str(tmp_path / "check")]) == gpu_check.NO_DEVICE
    assert "no CUDA device is here" in capsys.readouterr().err
    assert not (tmp_path / "check").exists()


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Card", [Note(text="a rehearsal on cpu: its figures say nothing")]),
        ("Checks: rows", ["rms_norm", "rms_norm's residual", "swiglu", "rotary", "kv_write (elements that differ)"]),
        ("Checks: look-up", ["ngram (elements that differ)"]),
        ("Checks: head", ["head (first tokens that differ)", "head with noise (tokens that can't be)"]),
        ("Checks: engine", ["engine: answers that drafts changed", "engine: no draft was ever accepted"]),
        ("Our steps", [(1, 1), (1, 3), (2, 1), (2, 3)]),
        ("Our tokens per second", [(2, 0.0, 0), (2, 0.0, 3), (2, 0.8, 0), (2, 0.8, 3)]),
        ("The engine's tokens per second", [(2, "plain"), (2, "look-up"), (2, "told")]),
        ("torch's own operators", [(1, 1), (1, 3), (2, 1), (2, 3)]),
        ("transformers", [2]),
    ],
)
def test_a_part_finds_what_its_table_shows_and_nothing_wrong(title, expected):
    """Every record of a part, in order."""
    found = list(parts.PARTS[title].run(SMALL, CPU))

    assert [name for record in found for name in faults(record)] == []
    assert [_identity(record) for record in found] == expected


def _identity(record):
    match record:
        case Check() | Bandwidth():
            return record.name
        case StepTime():
            return (record.batch, record.rows)
        case Decoding():
            return (record.batch, record.temperature, record.draft_tokens)
        case EngineRun():
            return (record.batch, record.drafter)
        case PeerSpeed():
            return record.batch
    return record


def test_bandwidths_begin_with_the_copy_that_they_are_shares_of():
    """Every product of the model and attention, each beside torch's operator."""
    copy, *others = parts.PARTS["Bandwidth"].run(SMALL, CPU)

    assert (copy.name, copy.torch_seconds) == ("copy", None)
    assert [one.name for one in others[-2:]] == ["attention, 2 x 1 rows", "attention, 2 x 3 rows"]
    assert len(others) == 2 + len(checks.product_shapes(SMALL)) * len(speed.PRODUCT_ROWS)
    assert all(one.torch_seconds > 0 for one in others)


def test_shapes_that_fill_no_block_are_checked_in_both_dtypes():
    """On a card; here the next test has the one and the kernels' own tests have the other."""
    assert {scale.dtype for scale in parts.ODD_SCALES} == {torch.float32, torch.bfloat16}


@pytest.mark.timeout(900)  # half a minute of one core, where there is one
def test_odd_shapes_are_right(monkeypatch):
    """Every check of the device, norms of heads, biases and a window among them."""
    monkeypatch.setattr(parts, "ODD_SCALES", (ODD,))

    found = list(parts.PARTS["Checks: odd shapes"].run(FULL, CPU))

    assert {name for check in found for name in faults(check)} == set()
    assert {check.name.split(":")[0] for check in found} == {"torch.bfloat16"}


def test_a_wrong_kernel_fails_the_check(monkeypatch):
    """The report names it."""
    right = ngram.look_up

    def wrong(*arguments, **options):
        drafts, has_draft = right(*arguments, **options)
        return drafts + 1, has_draft

    monkeypatch.setattr(ngram, "look_up", wrong)

    failed = [name for check in checks.look_up(SMALL, CPU) for name in faults(check)]

    assert failed == ["ngram (elements that differ)"]


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
    assert QUICK.config == FULL.config
    assert all(size % 16 for size in (ODD.config.hidden_size, ODD.config.intermediate_size, ODD.config.vocab_size))
