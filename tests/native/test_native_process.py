"""What the native library does to its process, and what of the process it depends on: threads, forks, exits, failures.

What would end a process that is wrong about it runs in a child, without torch: the C interface alone.
"""

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from bowsprit_engine.kernels import native
from bowsprit_engine.kernels.native import PackedLinear
from bowsprit_engine.native.variants import CHOSEN_VARIANT, cpu_features, search_path, usable

THREADS = Path("/proc/self/task")
PRELUDE = """
import ctypes, os, resource, sys, threading
from ctypes import byref
from bowsprit_engine.kernels.native_abi import SIGNATURES, DrawArgs, LayerArgs, ModelArgs, Shape, StepArgs

library = ctypes.CDLL(sys.argv[1])
for name, (result, arguments) in SIGNATURES.items():
    getattr(library, name).restype, getattr(library, name).argtypes = result, arguments

def configure(num_threads):
    return library.bowsprit_configure(num_threads, None, 0)

def draw(num_rows=64, vocab_size=1000, temperature=0.0):
    size = min(num_rows * vocab_size, 1 << 20)
    zeros, floats, ids = (ctypes.c_int64 * num_rows)(), (ctypes.c_float * size)(), (ctypes.c_int64 * num_rows)()
    floats[5] = 1.0  # the first row's token
    at = ctypes.addressof
    temperatures = (ctypes.c_float * num_rows)(*[temperature] * num_rows)
    args = DrawArgs(num_rows=num_rows, vocab_size=vocab_size, logits=at(floats), temperature=at(temperatures),
                    top_k=at(zeros), top_p=at(zeros), min_p=at(zeros), seeds=at(zeros), positions=at(zeros),
                    token_ids=at(ids))
    return ids[0] if library.bowsprit_draw(byref(args)) == 0 else library.bowsprit_last_error().decode()
"""


def in_a_child(body):
    """Its exit code and what it wrote, by the portable variant on threads of its own."""
    paths = [folder / "libbowsprit_avx2.so" for folder in search_path()]
    library = next(path for path in paths if path.is_file())
    package = str(Path(native.__file__).parents[2])
    finished = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(body), str(library)],
        env=os.environ | {"PYTHONPATH": package},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return finished.returncode, finished.stdout.split(), finished.stderr[-1000:]


def allowed_processors(thread):
    lines = (thread / "status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("Cpus_allowed_list"))


def test_pinning_workers_leaves_the_callers_thread_alone():
    """Threads inherit where their maker may run: the server's and the tokenizer's would all be on one processor."""
    library, before = native.library(), os.sched_getaffinity(0)
    one = min(before)
    known = set(THREADS.iterdir())
    try:
        assert library.bowsprit_configure(3, (ctypes.c_int * 1)(one), 1) == 0

        workers = set(THREADS.iterdir()) - known
        assert before == os.sched_getaffinity(0)
        assert [str(one)] * 2 == [allowed_processors(worker) for worker in workers]
    finally:
        os.sched_setaffinity(0, before)
        library.bowsprit_configure(2, None, 0)


def test_a_forked_child_draws_and_exits():
    """It has no workers: it must neither wait for them nor join them."""
    code, written, errors = in_a_child(
        """
        configure(3)
        draw()
        child = os.fork()
        if child == 0:
            print(library.bowsprit_num_threads(), draw(), flush=True)
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), library.bowsprit_num_threads(), draw())
        """
    )

    assert (code, written) == (0, ["1", "5", "0", "3", "5"]), errors


def test_the_number_of_threads_changes_while_another_thread_draws():
    """A plan keeps the threads that it began with."""
    code, written, errors = in_a_child(
        """
        configure(2)
        is_over, tokens = threading.Event(), set()

        def go_on():
            while not is_over.is_set():
                tokens.add(draw())

        thread = threading.Thread(target=go_on)
        thread.start()
        for number in range(200):
            configure(1 + number % 3)
        is_over.set()
        thread.join()
        print(*tokens, draw(), library.bowsprit_num_threads())
        """
    )

    assert (code, written) == (0, ["5", "5", "2"]), errors


def test_threads_that_the_system_refuses_are_an_error_and_the_former_ones_serve():
    """A pod has a limit of processes; here it is address space for their stacks."""
    code, written, errors = in_a_child(
        """
        configure(2)
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + (64 << 20),) * 2)
        print(configure(4000), library.bowsprit_num_threads(), draw())
        """
    )

    assert (code, written) == (0, ["1", "2", "5"]), errors


def test_an_item_that_fails_is_the_callers_error_and_the_pool_goes_on():
    """Memory that a worker doesn't get must not end the process, nor leave the others waiting."""
    code, written, errors = in_a_child(
        """
        configure(3)
        print({draw(vocab_size=1 << 60, temperature=1.0) for attempt in range(200)}, draw())
        """
    )

    assert (code, written) == (0, ["{'std::bad_alloc'}", "5"]), errors


def test_a_step_whose_buffers_do_not_fit_fails_each_time():
    """The second must not believe that the first one made room."""
    code, written, errors = in_a_child(
        """
        zeros = (ctypes.c_char * 4096)()
        at = ctypes.addressof(zeros)
        shape = Shape(vocab_size=16, hidden_size=16, intermediate_size=1 << 55, num_layers=1, num_heads=1,
                      num_kv_heads=1, head_dim=16, max_positions=16, rms_norm_eps=1e-5)
        model = library.bowsprit_model_new(byref(ModelArgs(shape=shape, layers=(LayerArgs * 1)())))
        library.bowsprit_model_set_kv(model, at, 1)
        step = StepArgs(num_rows=1, num_sequences=1, max_blocks=1, num_logit_rows=0, token_ids=at, positions=at,
                        row_sequences=at, block_tables=at, logit_rows=at, hidden=at, logits=at)
        print(library.bowsprit_model_step(model, byref(step)), library.bowsprit_model_step(model, byref(step)))
        """
    )

    assert (code, written) == (0, ["1", "1"]), errors


@pytest.mark.parametrize("name", [variant.name for variant in usable(cpu_features())])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_callers_float_modes_are_not_the_kernels(monkeypatch, name, num_threads):
    """A thread that flushes denormals to zero would compute other bits than the workers beside it."""
    monkeypatch.setenv(CHOSEN_VARIANT, name)
    native.set_num_threads(num_threads)
    linear, x = PackedLinear(torch.full((400, 8), 2.0**-70)), torch.full((9, 8), 2.0**-70)
    expected = linear(x)
    try:
        assert torch.set_flush_denormal(True)
        actual = linear(x)
        assert float(torch.tensor(2.0**-70) * torch.tensor(2.0**-70)) == 0.0
    finally:
        torch.set_flush_denormal(False)
        native.set_num_threads(2)

    assert torch.equal(expected, actual)
