"""A head's drafts by the native kernels and by torch's operators: one definition, and what each promises."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bowsprit_engine.errors import WorldError
from bowsprit_engine.kernels import native
from bowsprit_engine.kernels.reference import noise
from bowsprit_engine.models.memory import largest_head_bytes
from bowsprit_engine.native.variants import CHOSEN_VARIANT, cpu_features, usable
from bowsprit_engine.speculation.drafters import serving_head as forms
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.head_in_cpp import HeadInCpp
from bowsprit_engine.speculation.drafters.head_in_torch import HeadInTorch
from bowsprit_engine.speculation.drafters.serving_head import HeadArithmetic, serving_head
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows
from tiny_models import tiny_config

TARGET_VOCAB = 157
SHARP = 3.0  # of the LM head's rows: logits spread by several units, as a trained head's do
# Most by which the logarithm of a confidence differs from torch's: sums in another order, inputs rounded to bf16.
# Measured: 9e-6 and 0.02.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 0.05}


class Target:
    """What a head is laid out by: its target's embeddings, LM head and shape."""

    def __init__(self, hidden_size: int) -> None:
        dice = torch.Generator().manual_seed(hidden_size)
        self.table = torch.randn(TARGET_VOCAB, hidden_size, generator=dice).bfloat16().float()
        self.config = tiny_config(vocab_size=TARGET_VOCAB, hidden_size=hidden_size)

    def embed(self, token_ids: Tensor) -> Tensor:
        return self.table[token_ids]

    def final_norm_weight(self) -> Tensor:
        return torch.full((self.table.shape[1],), 1.25)


@pytest.fixture(params=[variant.name for variant in usable(cpu_features())])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every variant that this processor runs, on two threads."""
    monkeypatch.setenv(CHOSEN_VARIANT, request.param)
    native.set_num_threads(2)
    yield request.param
    native.set_num_threads(2)


def head_of(target: Target, *, width: int, vocab: int) -> tuple[RecurrentHead, Tensor]:
    """Random weights, rounded to bf16 as stored ones are, over tokens with gaps between them."""
    hidden_size = target.table.shape[1]
    torch.manual_seed(width)
    token_ids = torch.randperm(TARGET_VOCAB)[:vocab].sort().values
    rows = TargetRows(
        draft_token_ids=token_ids,
        lm_head=(target.table[token_ids] * SHARP / math.sqrt(hidden_size)).bfloat16().float(),
        final_norm=target.final_norm_weight(),
    )
    head = RecurrentHead(HeadShape(hidden_size=hidden_size, intermediate_size=width, rms_norm_eps=1e-5), rows)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_((parameter * (1 + 0.1 * torch.randn_like(parameter))).bfloat16().float())
    return head, token_ids


def both(target: Target, *, width: int, vocab: int) -> tuple[HeadInCpp, HeadInTorch]:
    head, token_ids = head_of(target, width=width, vocab=vocab)
    with torch.no_grad():
        return (
            HeadInCpp(head, token_ids, embed=target.embed),
            HeadInTorch(head, token_ids, embed=target.embed, vocab_size=TARGET_VOCAB),
        )


def contexts(target: Target, lengths: Sequence[int], *, temperature: float = 0.0) -> list[DraftContext]:
    """Last tokens inside and outside the draft vocabulary, states of a target's scale."""
    dice = torch.Generator().manual_seed(1)
    return [
        DraftContext(
            request_id=str(number),
            token_ids=(1,) * (number % 5) + (int(torch.randint(TARGET_VOCAB, (1,), generator=dice)),),
            hidden=20 * torch.randn(target.table.shape[1], generator=dice),
            max_draft_tokens=length,
            seed=7919 * number - 5,
            temperature=temperature,
        )
        for number, length in enumerate(lengths)
    ]


def drafted(form: HeadArithmetic, asked: Sequence[DraftContext]) -> list[Draft]:
    return form.draft(asked, confidence_temperature=1.0)


@pytest.mark.parametrize(
    ("hidden_size", "width", "vocab", "temperature"),
    [(32, 16, 49, 0.0), (32, 16, 49, 0.8), (48, 80, 112, 0.0), (576, 512, 100, 0.0)],
)
def test_both_forms_draft_by_one_definition(
    instruction_set: str, hidden_size: int, width: int, vocab: int, temperature: float
) -> None:
    """The same tokens, all but near-equals where inputs are rounded, and as sure within the bound until they part."""
    target = Target(hidden_size)
    in_cpp, in_torch = both(target, width=width, vocab=vocab)
    asked = contexts(target, [4] * 60, temperature=temperature)
    same = 0
    for by_cpp, by_torch in zip(drafted(in_cpp, asked), drafted(in_torch, asked), strict=True):
        for token, other, sure, also in zip(
            by_cpp.token_ids, by_torch.token_ids, by_cpp.confidences or (), by_torch.confidences or (), strict=True
        ):
            assert abs(math.log(sure) - math.log(also)) < BOUNDS[native.activation_dtype()]
            if token != other:
                break
            same += 1
    assert same >= (240 if native.activation_dtype() is torch.float32 else 0.95 * 240)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_draft_is_bitwise_the_same_alone_and_in_any_company(instruction_set: str, temperature: float) -> None:
    """Lengths from 1 to 9 in several orders, with 1 to 3 threads: tokens and confidences."""
    target = Target(48)
    in_cpp, _ = both(target, width=80, vocab=112)
    asked = contexts(target, [1 + (5 * number) % 9 for number in range(19)], temperature=temperature)
    expected = [drafted(in_cpp, [context])[0] for context in asked]
    longer = [drafted(in_cpp, [replace(context, max_draft_tokens=12)])[0] for context in asked]

    assert [each.token_ids for each in expected] == [
        more.token_ids[: context.max_draft_tokens] for context, more in zip(asked, longer, strict=True)
    ]
    for num_threads in (1, 2, 3):
        native.set_num_threads(num_threads)
        assert expected == drafted(in_cpp, asked)
        assert expected[::-1] == drafted(in_cpp, asked[::-1])


def test_a_state_that_is_not_finite_changes_no_neighbour(instruction_set: str) -> None:
    """It drafts without any confidence, in every place."""
    target = Target(32)
    in_cpp, _ = both(target, width=16, vocab=49)
    asked = contexts(target, [3, 2, 4])
    expected = drafted(in_cpp, asked)
    for place in range(3):
        bad = replace(asked[place], hidden=torch.full((32,), torch.nan))
        found = drafted(in_cpp, [*asked[:place], bad, *asked[place + 1 :]])
        assert found[place].confidences == (0.0,) * asked[place].max_draft_tokens
        assert found[:place] + found[place + 1 :] == expected[:place] + expected[place + 1 :]


@pytest.mark.parametrize("vocab", [49, 112])
def test_a_sampled_draft_competes_with_the_targets_noise_of_all_tokens(instruction_set: str, vocab: int) -> None:
    """At a temperature that drowns the logits the winner is who has the most noise, and its share is the noise's."""
    target = Target(32)
    head, token_ids = head_of(target, width=16, vocab=vocab)
    with torch.no_grad():
        head.lm_head.zero_()
    in_cpp = HeadInCpp(head.requires_grad_(False), token_ids, embed=target.embed)
    for context in contexts(target, [3] * 5, temperature=0.5):
        (draft,) = in_cpp.draft([context], confidence_temperature=2.0)
        for step, (token, sure) in enumerate(zip(draft.token_ids, draft.confidences or (), strict=True)):
            position = len(context.token_ids) + step
            of_tokens = noise(seed=context.seed & 2**64 - 1, position=position, vocab_size=TARGET_VOCAB)[token_ids]
            assert token == int(token_ids[of_tokens.argmax()])
            assert sure == pytest.approx(float((of_tokens * 0.5 / 2.0).softmax(-1).max()), rel=1e-4)


def test_threads_draft_at_once_by_one_head() -> None:
    """A head's load tests itself while the engine drafts: each call has buffers of its own."""
    target = Target(48)
    in_cpp, _ = both(target, width=80, vocab=112)
    asked = [contexts(target, [4] * count) for count in (1, 7)]
    expected = [drafted(in_cpp, each) for each in asked]
    found: list[list[list[Draft]]] = [[], []]

    def draft_on(index: int) -> None:
        found[index].extend(drafted(in_cpp, asked[index]) for _ in range(40))

    threads = [threading.Thread(target=draft_on, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[each] * 40 for each in expected] == found


@pytest.mark.parametrize(
    ("break_it", "error", "words"),
    [
        (lambda context: replace(context, max_draft_tokens=0), RuntimeError, "a draft of 0 tokens, the least is 1"),
        (lambda context: replace(context, hidden=torch.zeros(31)), ValueError, r"shape \(31,\)"),
    ],
)
def test_what_would_be_read_beyond_its_end_is_refused(
    break_it: Callable[[DraftContext], DraftContext], error: type[Exception], words: str
) -> None:
    """With both values."""
    target = Target(32)
    in_cpp, _ = both(target, width=16, vocab=49)
    first, second = contexts(target, [3, 2])
    with pytest.raises(error, match=words):
        drafted(in_cpp, [first, break_it(second)])


@pytest.mark.parametrize(
    ("width", "is_built", "expected"), [(32, True, HeadInCpp), (32, False, HeadInTorch), (40, True, HeadInTorch)]
)
def test_what_computes_is_what_the_machine_and_the_shape_allow(
    monkeypatch: pytest.MonkeyPatch, width: int, is_built: bool, expected: type
) -> None:
    """Torch's operators where there is no native library, and for widths that its blocks don't divide."""

    def library() -> None:
        if not is_built:
            raise WorldError("no library here", reason="NativeLibraryMissing")

    forms._has_native.cache_clear()
    target = Target(32)
    head, token_ids = head_of(target, width=width, vocab=49)
    with monkeypatch.context() as patch:
        if not is_built:
            patch.setattr(native, "library", library)
        serving = serving_head(head, token_ids, target, revision="r")  # type: ignore[arg-type]
    forms._has_native.cache_clear()
    assert type(serving.arithmetic) is expected


def test_a_head_in_memory_is_no_larger_than_was_budgeted() -> None:
    """The largest that training makes, its packed weights, table, and buffers for 64 sequences."""
    config = tiny_config(vocab_size=2048, hidden_size=512)
    dice = torch.Generator().manual_seed(0)
    table = torch.randn(2048, 512, generator=dice)
    rows = TargetRows(draft_token_ids=torch.arange(2048), lm_head=table, final_norm=torch.ones(512))
    head = RecurrentHead(HeadShape(hidden_size=512, intermediate_size=512, rms_norm_eps=1e-5), rows)
    in_cpp = HeadInCpp(head.requires_grad_(False), torch.arange(2048), embed=lambda ids: table[ids])
    buffers = 64 * 4 * (2048 + 4 * 512 + 3 * 512 + 512)
    assert in_cpp.num_bytes < in_cpp.num_bytes + buffers <= largest_head_bytes(config)
