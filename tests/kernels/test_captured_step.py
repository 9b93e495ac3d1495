"""What a CUDA graph may capture, without a card: fake tensors on "cuda", Triton's launches seen and not made."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.jit import JITFunction

from bowsprit_engine.kernels import filters, verify
from bowsprit_engine.models import step_graphs
from bowsprit_engine.models.checkpoint import tensor_shapes
from bowsprit_engine.models.triton_runner import TritonRunner
from tiny_models import rows, tiny_config

CUDA = torch.device("cuda", 0)
VOCAB_SIZE = 10_000  # a row's filters have several programs where there are few rows


class Weights:
    """A checkpoint on the device; a generator there can't be had."""

    path = Path("fake")

    def __init__(self, config):
        self.config = config
        self._shapes = tensor_shapes(config)

    def names(self):
        return self._shapes.keys()

    def tensor(self, name):
        return torch.empty(self._shapes[name], device=CUDA)


class Watch(TorchDispatchMode):
    """Devices that torch's operators touch. A value that is read back raises by itself: a fake tensor has none."""

    def __init__(self):
        super().__init__()
        self.is_capturing = False
        self.elsewhere = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if self.is_capturing and any(tensor.device != CUDA for tensor in tensors):
            self.elsewhere.append(str(operator))
        return result


class Card:
    """What was launched, and the captures: each runs its step twice, as CudaCaptures does."""

    def __init__(self, monkeypatch):
        self.watch = Watch()
        self.launched = []
        self.launched_at_start = frozenset()
        self.captured = []
        card = self

        def launch(kernel, *args, grid, warmup, **options):
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            assert {tensor.device for tensor in tensors} == {CUDA}, kernel
            card.launched.append((kernel.__name__, tuple(map(_variant, kernel.params, args)), str(options)))

        class Captures:
            def __call__(self, step):
                step()
                compiled, begin = set(card.launched), len(card.launched)
                card.watch.is_capturing = True
                output = step()
                card.watch.is_capturing = False
                card.captured.append(set(card.launched[begin:]) - compiled)
                return Replay(output)

        monkeypatch.setattr(JITFunction, "run", launch)
        monkeypatch.setattr(step_graphs, "CudaCaptures", Captures)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
        properties = SimpleNamespace(multi_processor_count=4, shared_memory_per_block_optin=99 * 1024)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def _variant(parameter, value):
    """What Triton compiles a kernel anew for: a pointer's type and alignment; that a number is 1 or divisible by 16."""
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.storage_offset() * value.itemsize % 16 == 0)
    is_specialised = isinstance(value, int) and not parameter.do_not_specialize
    return (type(value), value == 1, value % 16 == 0) if is_specialised else type(value)


class Replay:
    def __init__(self, output):
        self.output = output

    def replay(self):
        pass


@pytest.fixture(scope="module")
def card():
    with pytest.MonkeyPatch.context() as monkeypatch:
        card = Card(monkeypatch)
        with FakeTensorMode(), card.watch:
            yield card


@pytest.fixture(scope="module")
def runner(card):
    config = tiny_config(num_layers=1, tie_word_embeddings=False, vocab_size=VOCAB_SIZE)
    runner = TritonRunner(Weights(config), dtype=torch.bfloat16, device=CUDA)
    runner.allocate_kv(20)
    card.launched_at_start = frozenset(card.launched)
    return runner


def on_card(batch):
    return type(batch)(
        token_ids=batch.token_ids.to(CUDA),
        positions=batch.positions.to(CUDA),
        row_sequences=batch.row_sequences.to(CUDA),
        block_tables=batch.block_tables.to(CUDA),
        logit_rows=batch.logit_rows.to(CUDA),
    )


def test_a_captured_step_stays_on_the_device(runner, card):
    """No copy to or from the host and no value read back, either of which ends a capture in an error."""
    assert len(card.captured) == len(step_graphs.BUCKETS)
    assert card.watch.elsewhere == []


def test_a_capture_launches_only_what_was_compiled_before_it(runner, card):
    """Loading a kernel isn't allowed in one."""
    assert card.captured == [set()] * len(step_graphs.BUCKETS)


def test_no_step_after_the_start_compiles_a_kernel(runner, card):
    """Prompts of any length, beside drafts, with and without logits: all that they launch was launched at the start."""
    tokens = list(range(1, 201))
    begin = len(card.launched)
    steps = [
        rows((tokens[:count], 0, list(range(13))), ([3, 4], 30, [13, 14, 15]), logit_rows=logit_rows)
        for count in (1, 17, 63, 130, 200)
        for logit_rows in ([0], [], [0, 1, 2])
    ]

    for step in steps:
        output = runner.forward(on_card(step))
        assert (output.logits.device, output.hidden.device) == (CUDA, CUDA)

    assert len(card.launched) > begin
    assert set(card.launched[begin:]) - card.launched_at_start == set()


def test_no_draw_after_the_start_compiles_a_kernel(runner, card):
    """Filtered or not, of as many rows as a step has."""
    begin = len(card.launched)
    logits = torch.empty(20, VOCAB_SIZE, device=CUDA)
    ones = torch.ones(20, device=CUDA)

    for count in (1, 3, 20):
        verify.verify(
            filters.filter_logits(logits[:count], *(part[:count] for part in (ones, ones.int(), ones, ones))),
            row_starts=torch.tensor([0, count], dtype=torch.int32, device=CUDA),
            drafts=ones[:count].long(),
            temperature=ones[:1],
            seeds=ones[:1].long(),
            positions=ones[:1].int(),
        )

    assert [kernel for kernel, *_ in card.launched[begin:]] == 3 * ["_filter_kernel", "_verify_kernel"]
    assert set(card.launched[begin:]) - card.launched_at_start == set()


def test_no_product_of_a_loaded_head_compiles_a_kernel(runner, card):
    """Drafts for any number of sequences; of a weight that is cut where the model's own are not."""
    product = runner.linear(torch.empty(1024, 4096, device=CUDA))
    compiled, begin = set(card.launched), len(card.launched)

    for count in (1, 17, 33, 65, 200, 300):
        assert product(torch.empty(count, 4096, device=CUDA)).shape == (count, 1024)

    assert {kernel for kernel, *_ in card.launched[begin:]} == {"_gemm_kernel"}
    assert set(card.launched[begin:]) - compiled == set()


def test_a_replayed_step_hands_out_copies_on_the_device(runner):
    """Of as many rows as it was asked for."""
    output = runner.forward(on_card(rows(([5, 6, 7], 4, [2]))))

    assert (output.logits.shape, output.logits.dtype, output.logits.device) == ((3, VOCAB_SIZE), torch.float32, CUDA)
    assert (output.hidden.shape, output.hidden.dtype, output.hidden.device) == ((3, 64), torch.float32, CUDA)
