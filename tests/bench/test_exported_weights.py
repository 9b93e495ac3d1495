"""The two forms of the model hold the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader

from bench import exported_weights
from bench.exported_weights import export
from bowsprit_engine.models.gguf import GgufCheckpoint
from bowsprit_engine.models.weights import HfCheckpoint
from tiny_models import tiny_gguf


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model; its byte vocabulary has no tokenizer that the engine reads, which is another test's subject."""

    class Tokenizer:
        def save_pretrained(self, folder: str) -> None:
            (Path(folder) / "tokenizer.json").write_text("{}")

    monkeypatch.setattr(exported_weights, "tokenizer_from", lambda path, metadata: Tokenizer())
    return tiny_gguf(tmp_path / "tiny.gguf")


def test_both_forms_are_the_source_rounded_to_bfloat16(source: Path, tmp_path: Path) -> None:
    """Every tensor, every bit, and the same shape of model."""
    exported = export(source, tmp_path / "cache")
    original = GgufCheckpoint(source)
    folder, gguf = HfCheckpoint(exported.hf_folder), GgufCheckpoint(exported.gguf)
    assert set(folder.names()) == set(gguf.names()) == set(original.names())
    for name in original.names():
        rounded = original.tensor(name).to(torch.bfloat16)
        assert torch.equal(folder.tensor(name), rounded)
        assert torch.equal(gguf.tensor(name).to(torch.bfloat16), rounded)
    assert folder.config == gguf.config == original.config


def test_matrices_of_the_gguf_are_stored_as_bfloat16(source: Path, tmp_path: Path) -> None:
    """llama.cpp computes with what the file says."""
    stored = GGUFReader(export(source, tmp_path / "cache").gguf).tensors
    matrices = {tensor.tensor_type for tensor in stored if len(tensor.shape) > 1}
    assert matrices == {GGMLQuantizationType.BF16}


def test_an_export_is_made_once(source: Path, tmp_path: Path) -> None:
    """And again when the source's content changes."""
    first = export(source, tmp_path / "cache")
    (first.hf_folder / "mark").touch()
    assert (export(source, tmp_path / "cache").hf_folder / "mark").exists()
    other = tiny_gguf(tmp_path / "other.gguf", seed=1)
    assert export(other, tmp_path / "cache").hf_folder != first.hf_folder


def test_an_export_that_fails_leaves_nothing_behind(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run must not take half of one for whole."""

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(exported_weights, "_write_gguf", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export(source, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
