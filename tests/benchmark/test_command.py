"""`bowsprit-engine bench` on a tiny model, as people run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bowsprit_engine.__main__ import application
from bowsprit_engine.speculation import profile
from tiny_models import tiny_config, tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", tiny_config(max_model_len=1024))


@pytest.fixture(autouse=True)
def short_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are nobody's business here, and stay out of the user's cache."""
    monkeypatch.setattr(profile, "SECONDS_BOUND", 0.05)
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path / "cache"))


def bench(model: Path, *flags: str) -> Result:
    return CliRunner().invoke(application, ["bench", "--model", str(model), *flags])


def test_modes_and_batch_sizes_are_compared_and_speculation_changes_no_text(model: Path, tmp_path: Path) -> None:
    """A line for each, in the table and in the file; every answer is plain decoding's, at every batch size."""
    figures = tmp_path / "figures.json"

    result = bench(
        model, "--modes", "off 4", "--batch-sizes", "1,3", "--rounds", "2", "--max-tokens", "40",
        "--json-file", str(figures),
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    lines = json.loads(figures.read_text())
    assert [(line["batch_size"], line["mode"]) for line in lines] == [(1, "off"), (1, "4"), (3, "off"), (3, "4")]
    assert {(line["num_equal"], line["num_answers"]) for line in lines} == {(8, 8)}
    assert [line["sample"]["drafted"] for line in lines[::2]] == [0.0, 0.0]
    assert [line["sample"]["acceptance_length"] for line in lines[::2]] == [1.0, 1.0]
    assert [line["sample"]["drafted"] > 0 for line in lines[1::2]] == [True, True]
    assert all(line["sample"]["tokens_per_second"] > 0 and line["ratio"][0] > 0 for line in lines)
    assert "8/8" in result.output
    assert "median [least, most]" in result.output


def test_no_round_looks_up_the_answers_of_another(model: Path, tmp_path: Path) -> None:
    """They are the same answers: three rounds say what one says, which is next to nothing on random text."""

    def acceptance_length(rounds: int) -> float:
        figures = tmp_path / "figures.json"
        result = bench(
            model, "--modes", "4", "--batch-sizes", "1", "--rounds", str(rounds), "--max-tokens", "24",
            "--temperature", "2", "--drafter", "suffix=Suffix", "--json-file", str(figures),
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        (line,) = json.loads(figures.read_text())
        return float(line["sample"]["acceptance_length"])

    once = acceptance_length(1)
    assert once < 1.5
    assert acceptance_length(3) == once


def test_prompts_come_from_a_file_and_those_too_long_for_the_model_are_named(model: Path, tmp_path: Path) -> None:
    """One that fits is enough; none that does is an error with the numbers."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps("a" * 2000) + "\n" + json.dumps("abc" * 5) + "\n")

    some = bench(model, "--modes", "off", "--batch-sizes", "1", "--rounds", "1", "--prompts", str(prompts))
    prompts.write_text(json.dumps("a" * 2000) + "\n")
    none = bench(model, "--modes", "off", "--batch-sizes", "1", "--rounds", "1", "--prompts", str(prompts))

    assert (some.exit_code, "1 prompts of 15 to 15 tokens" in some.output) == (0, True)
    assert none.exit_code == 1
    assert "no prompt fits: 1 of 2000 tokens and more, max_tokens 64 leaves room for 960" in none.output


def test_a_mode_beyond_the_engines_draft_tokens_is_refused(model: Path) -> None:
    """Before anything is loaded."""
    result = bench(model, "--modes", "off 9")

    assert (result.exit_code, "mode 9 is not within 0 and draft_tokens_max 8" in result.output) == (2, True)
