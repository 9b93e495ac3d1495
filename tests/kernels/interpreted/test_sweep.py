"""The sweep of launch constants in small, in the interpreter, so that it runs when a GPU is there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime.interpreter import InterpretedFunction

from bench.gpu import sweep, sweep_attention, sweep_products, sweep_report
from bench.gpu.records import Note
from bench.gpu.sweep_grid import FULL, SMALL, Blocks
from bench.gpu.sweep_records import AS_IT_IS, TORCH, Failed, InStep, Lines, Timed, read
from bench.gpu.sweep_timing import Stopwatch
from bowsprit_engine.kernels import attention, gemm
from bowsprit_engine.kernels.gemm import Tile

CPU = torch.device("cpu")
GRID = replace(
    SMALL, product_rows=(40,), attention_cells=((2, 3, 40),), sampling_rows=(2,), step_cells=((2, 1),), splits=(1, 2)
)
PRODUCTS = {
    "qkv": ["16/64/32/4/2/1/0", "64/64/64/4/2/1/0"],
    "output": ["16/64/32/4/2/1/0", "16/64/32/4/2/2/0", "64/64/64/4/2/1/0", "64/64/64/4/2/2/0", "64/64/64/4/2/2/1"],
    "gate and up": ["16/64/32/4/2/1/0", "64/64/64/4/2/1/0"],
    "down": ["16/64/32/4/2/1/0", "16/64/32/4/2/2/0", "64/64/64/4/2/1/0", "64/64/64/4/2/2/0", "64/64/64/4/2/2/1"],
    "LM head": ["16/64/32/4/2/1/0", "64/64/64/4/2/1/0"],
}


def found(title, tmp_path, grid=GRID):
    path = tmp_path / f"{title}.jsonl"
    sweep.measure(sweep.SUBJECTS[title], grid, CPU, Lines(path), repeats=1)
    return read(path)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("sampling", [(f"{work}, 2 rows", AS_IT_IS) for work in ("verify, greedy", "verify, at 0.8", "filters")]),
        ("steps", [("batch 2, n = 1", AS_IT_IS)]),
        (
            "attention",
            [
                ("2 x 3 rows, context 40", candidate)
                for candidate in (
                    AS_IT_IS,
                    "16/16/4/2/32/0",
                    "16/16/4/2/32/1",
                    "32/16/4/2/64/0",
                    "32/16/4/2/64/1",
                )
            ],
        ),
        (
            "products",
            [
                (f"{product}, 40 rows", candidate)
                for product, candidates in PRODUCTS.items()
                for candidate in (TORCH, AS_IT_IS, *candidates)
            ],
        ),
    ],
)
def test_a_subject_writes_a_line_for_every_candidate_of_every_case(title, expected, tmp_path):
    """All are launched, right, and timed."""
    note, *records = found(title, tmp_path)

    assert note == Note(text="a rehearsal on cpu: its figures say nothing")
    assert [(record.case, record.candidate) for record in records if isinstance(record, Timed)] == expected
    assert all(record.seconds > 0 for record in records if isinstance(record, Timed))
    assert [record for record in records if isinstance(record, Failed)] == []
    kernels = {record.kernel for record in records if isinstance(record, InStep)}
    assert ("aten::index" in kernels) == (title == "steps")


def test_a_tile_that_cannot_be_launched_is_a_line_and_costs_no_other(tmp_path):
    """No power of two: as little launched here as one that is too large for a card's shared memory there."""
    odd = Tile(rows=24, columns=64, depth=32, num_warps=4, num_stages=2)
    grid = replace(GRID, tiles=(odd, GRID.tiles[0]), splits=(1,))

    records = found("products", tmp_path, grid)

    failed = [record for record in records if isinstance(record, Failed)]
    assert [record.case for record in failed] == [f"{product}, 40 rows" for product in PRODUCTS]
    assert {record.candidate for record in failed} == {"24/64/32/4/2/1/0"}
    assert all("power of 2" in record.reason for record in failed)
    timed = [record.candidate for record in records if isinstance(record, Timed)]
    assert timed == [TORCH, AS_IT_IS, "16/64/32/4/2/1/0"] * len(PRODUCTS)


def test_blocks_that_cannot_be_launched_leave_attention_as_it_was(tmp_path):
    """The constants are restored by a candidate that fails, too."""
    names = ("TILE", "BLOCK_K", "NUM_WARPS", "NUM_STAGES", "SPLIT")
    before = [getattr(attention, name) for name in names]
    grid = replace(GRID, blocks=(Blocks(tile=24, block_k=16, num_warps=4, num_stages=2, split=32), GRID.blocks[0]))

    records = found("attention", tmp_path, grid)

    assert [type(record) for record in records[1:]] == [Timed, Failed, Failed, Timed, Timed]
    assert [getattr(attention, name) for name in names] == before


def test_a_candidate_that_is_wrong_is_no_candidate(tmp_path):
    """However fast."""
    lines = Lines(tmp_path / "lines")
    stopwatch = Stopwatch(lines, device=CPU, repeats=1)

    for candidate, result in (("wrong", torch.tensor([1.0, 2.1])), ("no number", torch.tensor([1.0, float("nan")]))):
        stopwatch.time(
            lambda: None,
            case="a",
            candidate=candidate,
            result=lambda result=result: result,
            expected=torch.tensor([1.0, 2.0]),
        )

    assert [record.reason[:37] for record in lines.records] == [
        "ArithmeticError: the result is off by",
        "ArithmeticError: the result is off by",
    ]


def test_a_process_that_follows_another_goes_on_behind_its_lines(tmp_path):
    """What was timed or has failed is not tried again, and a line that was cut off is."""
    path = tmp_path / "products.jsonl"
    records = found("products", tmp_path)
    failed = Failed(case=records[-2].case, candidate=records[-2].candidate, reason="illegal access")
    whole = path.read_text().splitlines(keepends=True)
    failed_line = json.dumps({"kind": "failed", "case": failed.case, "candidate": failed.candidate, "reason": "x"})
    path.write_text("".join([*whole[:-2], failed_line, "\n", whole[-1][:20]]))

    again = found("products", tmp_path)

    assert again[:-2] == records[:-2]
    assert again[-2] == replace(failed, reason="x")
    assert (again[-1].case, again[-1].candidate) == (records[-1].case, records[-1].candidate)
    assert len(again) == len(records)


@pytest.mark.parametrize("subject", [sweep_attention, sweep_products], ids=["attention", "products"])
def test_no_candidate_is_compiled_while_it_is_timed(subject, monkeypatch):
    """At the card's own grid: every kernel with its constants, types and divisors of 16 is among those compiled before.

    Launches are seen and not made.
    """
    launched = []

    def launch(kernel, *arguments, grid, warmup, **options):
        variants = tuple(map(_variant, kernel.arg_names, arguments))
        launched.append((kernel.__name__, variants, tuple(sorted(options.items(), key=str))))

    class Watch:
        device = CPU

        def time(self, work, *, candidate, **_):
            if candidate not in (AS_IT_IS, TORCH):
                work()

    monkeypatch.setattr(InterpretedFunction, "run", launch)
    for kernels in (attention, gemm):
        monkeypatch.setattr(kernels, "reference", lambda *_, **__: None)
    with FakeTensorMode():
        for prepare in subject.preparations(FULL, CPU):
            prepare()
        prepared = set(launched)
        launched.clear()
        subject.run(FULL, Watch())

    assert len(launched) > 500
    assert set(launched) - prepared == set()


NOT_SPECIALISED = ("num_rows", "num_splits", "table_stride", "window")  # by the kernels' decorators


def _variant(name, value):
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.storage_offset() * value.itemsize % 16 == 0)
    return name in NOT_SPECIALISED or type(value) is float or (value == 1, value % 16 == 0)


def test_without_a_gpu_it_says_so_and_fails(tmp_path, capsys):
    """No lines that look like figures."""
    assert sweep.main(["--output", str(tmp_path / "sweep")]) == sweep.NO_DEVICE
    assert "no CUDA device is here" in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_rehearsal_from_the_command_line_to_the_tables(tmp_path):
    """Processes that compile, one that measures; what another subject has from before stays."""
    (tmp_path / "steps.jsonl").write_text('{"kind": "note", "text": "of yesterday"}\n')

    assert sweep.main(["--rehearse", "--only", "sampling", "--output", str(tmp_path)]) == 0

    tables = (tmp_path / "sweep.md").read_text()
    assert "| verify, at 0.8, 3 rows |" in tables
    assert "of yesterday" in tables
    assert len((tmp_path / "sampling.jsonl").read_text().splitlines()) == 1 + 3 * len(SMALL.sampling_rows)


WRITES = 'open({path!r}, \'a\').write(\'{{"kind": "note", "text": "a line"}}\\n\')'
DIES_ONCE = "; import sys; sys.exit(len(open({path!r}).readlines()) < 2)"


def swept(tmp_path, program, *, seconds=60.0):
    path = str(tmp_path / "sampling.jsonl")

    def command(options):
        return [sys.executable, "-c", program.format(path=path) if "--subject" in options else "pass"]

    subject = replace(sweep.SUBJECTS["sampling"], seconds=seconds)
    return sweep.Sweep(tmp_path, command=command, seconds=60.0).run([subject], num_compilers=1)


@pytest.mark.parametrize(
    ("program", "unfinished", "num_lines"),
    [
        (WRITES + DIES_ONCE, [], 2),
        ("import sys; sys.exit(1)", ["sampling"], 0),
        (WRITES + "; import sys; sys.exit(1)", ["sampling"], 1 + sweep.MOST_LOST_CONTEXTS),
    ],
    ids=["lost once", "never began", "lost again and again"],
)
def test_a_subject_whose_context_was_lost_is_gone_on_with_while_that_brings_lines(
    program, unfinished, num_lines, tmp_path
):
    """Its process ends with what the device raised."""
    assert swept(tmp_path, program) == unfinished
    assert len(read(tmp_path / "sampling.jsonl")) == num_lines


def test_a_subject_that_hangs_is_ended_and_keeps_its_lines(tmp_path):
    """A program that waits for another one forever."""
    program = WRITES.replace("open(", "import signal; open(").replace(".write", ".write") + "; signal.pause()"

    assert swept(tmp_path, program, seconds=2.0) == ["sampling"]
    assert (tmp_path / "sweep.md").exists()


def test_the_table_shows_the_fastest_first_beside_what_is_there_and_why_one_failed():
    """Microseconds."""
    seconds = {TORCH: 9e-6, AS_IT_IS: 5e-6, "slow": 7e-6, "fast": 4e-6, "middle": 6e-6}
    records = [Timed(case="a", candidate=name, seconds=taken) for name, taken in seconds.items()]
    records += [Failed(case=case, candidate="large", reason="a | b") for case in ("a", "b")]

    section = sweep_report.section("products", records, legend="its/constants", num_best=2)

    assert "| case | torch | as it is | best 1 | best 2 |" in section
    assert "| a | 9.0 | 5.0 | fast: 4.0 | middle: 6.0 |" in section
    assert "| large | a / b | 2: a, … |" in section
    assert "a candidate is its/constants" in section


def test_it_needs_nothing_that_a_bare_machine_lacks():
    """Torch, Triton, numpy."""
    missing = ("pydantic", "safetensors", "tokenizers", "gguf", "fastapi", "typer", "rich", "llguidance", "pyarrow")
    program = f"import sys\nfor name in {missing!r}: sys.modules[name] = None\nimport bench.gpu.sweep"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=290)

    assert done.returncode == 0, done.stderr
