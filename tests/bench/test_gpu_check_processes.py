"""The GPU check's parts as processes: what one finds is kept, however it ends, and costs no other."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from bench import gpu_check
from bench.gpu import parts
from bench.gpu.parts import Part
from bench.gpu.records import (
    Bandwidth,
    Card,
    Check,
    Decoding,
    NotChecked,
    Note,
    PeerSpeed,
    StepTime,
    from_line,
    to_line,
)
from bench.gpu.scale import SMALL

FINDS = "import sys; open(sys.argv[1], 'a').write({lines!r})"
DIES = "; import os, signal; print('the device is gone', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
HANGS = "import signal; signal.pause()"
RIGHT = Check(name="right", error=0.0, limit=0.0)
WRONG = Check(name="wrong", error=2.0, limit=1.0)


def part(title, *, seconds=60.0, is_timed=False):
    return Part(title=title, run=lambda scale, device: (), seconds=seconds, is_timed=is_timed)


def finding(*records, then=""):
    return FINDS.format(lines="".join(to_line(record) + "\n" for record in records)) + then


def checking(tmp_path, programs, *, seconds=600.0):
    def command(title):
        return [sys.executable, "-c", programs[title]]

    return gpu_check.GpuCheck(output=tmp_path, seconds=seconds, command=command, title="a shape")


def states(tmp_path):
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    return {each["title"]: (each["state"], [record["name"] for record in each["records"]]) for each in parts}


def test_a_part_that_dies_keeps_what_it_found_and_costs_no_other(tmp_path):
    """A signal, as of a process whose device was lost: its records and last words stay, the other part is whole."""
    check = checking(tmp_path, {"a": finding(RIGHT, then=DIES), "b": finding(RIGHT)})

    check.run([part("a"), part("b")])

    assert states(tmp_path) == {"a": ("failed", ["right"]), "b": ("ok", ["right"])}
    assert check.failed == ["a (failed)"]
    report = (tmp_path / "report.md").read_text()
    assert "the device is gone" in report
    assert report.count("| right | 0 | 0 | ok |") == 2
    assert "FAILED: a (failed)" in report


def test_a_part_that_hangs_is_ended(tmp_path):
    """Its time is its own; those after it run."""
    check = checking(tmp_path, {"a": HANGS, "b": finding(RIGHT)})

    check.run([part("a", seconds=0.0, is_timed=True), part("b", is_timed=True)])

    assert states(tmp_path) == {"a": ("out of time", []), "b": ("ok", ["right"])}


def test_a_part_for_which_no_time_is_left_is_not_begun_and_said_so(tmp_path):
    """Less than a process takes to start is no time; the check as a whole isn't whole."""
    check = checking(tmp_path, {"a": finding(RIGHT)}, seconds=gpu_check.LEAST_SECONDS)

    check.run([part("a")])

    assert states(tmp_path) == {"a": ("not run", [])}
    assert check.failed == ["a (not run)"]


def test_a_timed_part_begins_when_all_before_it_have_ended(tmp_path):
    """It has the card to itself."""
    seen = {}

    def command(title):
        seen[title] = states(tmp_path) if title in ("c", "d") else None
        return [sys.executable, "-c", finding(RIGHT)]

    check = gpu_check.GpuCheck(output=tmp_path, seconds=600.0, command=command, title="a shape")
    ended = ("ok", ["right"])

    check.run([part("a"), part("c", is_timed=True), part("b"), part("d", is_timed=True)])

    assert seen["c"] == {"a": ended, "b": ended}
    assert seen["d"] == {"a": ended, "b": ended, "c": ended}


def test_a_wrong_check_fails_the_whole_by_name(tmp_path):
    """Its process ended well."""
    check = checking(tmp_path, {"a": finding(RIGHT, WRONG)})

    check.run([part("a")])

    assert check.failed == ["wrong"]
    assert "| wrong | 2 | 1 | **WRONG** |" in (tmp_path / "report.md").read_text()


RECORDS = [
    Card(
        name="a card",
        capability="9.0",
        memory_bytes=80 << 30,
        multiprocessors=132,
        torch="2.11.0",
        triton="3.6.0",
        python="3.12.3",
    ),
    Note(text="a | b"),
    NotChecked(name="engine_check", reason="a | b"),
    RIGHT,
    Bandwidth(name="copy", num_bytes=8, seconds=2.0, torch_seconds=1.0),
    StepTime(batch=1, rows=2, seconds=0.5),
    Decoding(batch=1, temperature=0.8, acceptance_length=2.0, tokens_per_second=3.0, of_plain=1.5, is_equal=True),
    PeerSpeed(batch=8, tokens_per_second=9.0),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.kind)
def test_a_record_comes_back_from_its_line_as_it_was(record):
    """Of every kind."""
    assert from_line(to_line(record)) == record


@pytest.mark.parametrize("line", ["{", "3", "{}", '{"kind": "check"}', '{"kind": "song", "name": "x"}'])
def test_a_line_that_is_no_record_is_refused(line):
    """Cut off, or of another program."""
    with pytest.raises(ValueError, match=r"record|Expecting"):
        from_line(line)


def test_a_nan_is_an_error():
    """NaN compares false with any limit."""
    assert not Check(name="x", error=float("nan"), limit=1.0).is_ok


def test_quick_leaves_out_what_is_compared_with_others():
    """Right or wrong, bandwidth, steps and tokens stay; a part named by its title is run whatever it is."""
    quick = [each.title for each in gpu_check.chosen_parts([], is_quick=True)]

    assert set(gpu_check.PARTS) - set(quick) == {"torch's own operators", "transformers"}
    assert [each.title for each in gpu_check.chosen_parts(["transformers"], is_quick=True)] == ["transformers"]


def test_a_part_whose_packages_are_missing_says_so(monkeypatch):
    """A machine with a card needn't have what serves requests."""
    missing = ModuleNotFoundError("No module named 'llguidance'", name="llguidance")
    monkeypatch.setattr("importlib.import_module", Mock(side_effect=missing))

    found = list(gpu_check.PARTS["Checks: engine"].run(SMALL, torch.device("cpu")))

    reason = "No module named 'llguidance'; `make gpu-packages` makes a folder to carry there"
    assert found == [NotChecked(name="engine_check", reason=reason)]


def test_the_verdict_names_what_was_not_checked(tmp_path):
    """Nothing is wrong by it, and nobody may take it for right."""
    check = checking(tmp_path, {"engine": finding(RIGHT, NotChecked(name="engine_check", reason="a package"))})
    check.run([part("engine")])

    assert check.failed == []
    assert check.verdict().startswith("gpu-check: ok; NOT CHECKED: engine_check; ")


def test_packages_that_were_carried_are_found_after_the_machines_own(monkeypatch, tmp_path):
    """So that a machine with another version of one keeps it."""
    (tmp_path / "carried_package.py").write_text("")
    monkeypatch.setattr(parts, "CARRIED", tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    origin = importlib.util.find_spec
    engine_check = SimpleNamespace(run=lambda scale, device: [Note(text=origin("carried_package").origin)])
    monkeypatch.setattr("importlib.import_module", Mock(return_value=engine_check))

    found = list(gpu_check.PARTS["Checks: engine"].run(SMALL, torch.device("cpu")))

    assert found == [Note(text=str(tmp_path / "carried_package.py"))]
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("fault", [ImportError("cannot import name 'x'"), ModuleNotFoundError(name="bench.gpu.gone")])
def test_a_part_that_the_repository_itself_breaks_is_no_missing_package(monkeypatch, fault):
    """Else a renamed function would leave the check out, and the verdict would be ok."""
    monkeypatch.setattr("importlib.import_module", Mock(side_effect=fault))

    with pytest.raises(ImportError):
        list(gpu_check.PARTS["Checks: engine"].run(SMALL, torch.device("cpu")))


def test_a_rehearsal_runs_a_part_as_a_process_and_reports_it(tmp_path):
    """From the command line to the report, on the CPU."""
    assert gpu_check.main(["--rehearse", "--only", "Card", "--output", str(tmp_path)]) == 0

    report = (tmp_path / "report.md").read_text()
    assert "a rehearsal on cpu: its figures say nothing" in report
    assert "gpu-check: ok" in report


def test_a_check_that_is_told_to_end_leaves_no_part_behind(tmp_path):
    """As when a machine's time is over: a part that has the card would keep it."""
    command = [sys.executable, "-m", "bench.gpu_check", "--rehearse", "--only", "Checks: engine", "--output", tmp_path]
    check = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        while not (parts_of_it := children(check.pid)):
            assert check.poll() is None
            time.sleep(0.05)
        check.terminate()

        assert check.wait(timeout=30) == 128 + signal.SIGTERM
        for part_of_it in parts_of_it:
            with pytest.raises(ProcessLookupError):
                os.kill(part_of_it, 0)
    finally:
        check.kill()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
