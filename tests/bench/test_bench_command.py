"""The command line of the comparison."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bench import __main__ as command
from bench import plan


@pytest.mark.parametrize(
    ("words", "known"),
    [(["--cases", "decode-1,sonnet"], "decode-16"), (["--engines", "bowsprit,sonnet"], plan.VLLM_NGRAM)],
)
def test_an_unknown_name_is_refused_with_those_that_there_are(words: list[str], known: str, tmp_path: Path) -> None:
    """Before anything is installed or measured."""
    application = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    application.command()(command.main)
    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(application, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "sonnet" in result.output
    assert known in result.output
    assert not (tmp_path / "out").exists()
    assert signal.getsignal(signal.SIGTERM) is before
