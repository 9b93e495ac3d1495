"""The head as a drafter, and the folder that it is loaded from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.kernels.reference import noise
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.head import HeadDrafter, accuracy, serving_head
from bowsprit_engine.speculation.drafters.keyed_noise import gumbel_of
from bowsprit_engine.training import artifact, loop
from bowsprit_engine.training.artifact import HeadConfig
from bowsprit_engine.training.features import selftest_of
from bowsprit_engine.training.head import HeadShape, RecurrentHead
from bowsprit_engine.training.loop import LoopSettings
from bowsprit_policy.wire import DrafterState
from training.learnable import DIGEST, EPS, HIDDEN, VOCAB, LearnableRunner, recorded, states_of, target_rows

DRAFT_TOKEN_IDS = torch.arange(0, VOCAB - 6)
SHAPE = HeadShape(hidden_size=HIDDEN, intermediate_size=64, rms_norm_eps=EPS)


@pytest.fixture(scope="module")
def trained() -> tuple[LearnableRunner, RecurrentHead]:
    """A head that has learned the target."""
    runner = LearnableRunner()
    rising = itertools.count(1.0)  # the last weights are kept
    torch.manual_seed(0)
    head = RecurrentHead(SHAPE, target_rows(runner, DRAFT_TOKEN_IDS))
    loop.train(
        head,
        target=target_rows(runner, DRAFT_TOKEN_IDS),
        requests=[states_of(runner, request) for request in recorded(runner, 96)],
        embed=runner.embed,
        judge=lambda _: next(rising),
        settings=LoopSettings(unroll=3, rows_per_batch=96, max_epochs=8, learning_rate=5e-3),
        clock=lambda: 0.0,
    )
    return runner, head


@pytest.fixture
def folder(trained: tuple[LearnableRunner, RecurrentHead], tmp_path: Path) -> Path:
    """The head, stored."""
    write(tmp_path / "m-head-1", *trained)
    return tmp_path / "m-head-1"


def write(folder: Path, runner: LearnableRunner, head: RecurrentHead) -> tuple[str, int]:
    selftest = selftest_of([states_of(runner, request) for request in recorded(runner, 8, seed=5)])
    serving = serving_head(head, DRAFT_TOKEN_IDS, runner, revision="m-head-1")
    config = HeadConfig(
        hidden_size=HIDDEN,
        intermediate_size=64,
        draft_vocab_size=DRAFT_TOKEN_IDS.numel(),
        rms_norm_eps=EPS,
        draft_tokens=3,
        target_model_digest=DIGEST,
        target_vocab_size=VOCAB,
        target_eos_token_ids=(VOCAB - 1,),
        revision="m-head-1",
        parent=None,
        selftest_accuracy=accuracy(serving, selftest, embed=runner.embed),
    )
    return artifact.write(folder, head=head, config=config, draft_token_ids=DRAFT_TOKEN_IDS, selftest=selftest)


def loaded(runner: LearnableRunner, folder: Path) -> HeadDrafter:
    drafter = HeadDrafter(name="head", runner=runner)
    drafter.swap_in(drafter.load(folder, None, "m-head-1", DIGEST))
    return drafter


def contexts(
    runner: LearnableRunner, *, temperature: float = 0.0, lengths: Sequence[int] = (3, 1, 2)
) -> list[DraftContext]:
    """Sequences about to emit their second token."""
    return [
        DraftContext(
            request_id=f"r{number}",
            token_ids=(*request.prompt_token_ids, request.response_token_ids[0]),
            hidden=states_of(runner, request).hidden[0],
            max_draft_tokens=length,
            seed=number + 1,
            temperature=temperature,
        )
        for number, (request, length) in enumerate(zip(recorded(runner, len(lengths), seed=3), lengths, strict=True))
    ]


def test_a_loaded_head_drafts_what_the_target_emits(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path
) -> None:
    """Each sequence as many tokens as it may take."""
    runner, _ = trained
    drafts = loaded(runner, folder).propose(contexts(runner, lengths=[2] * 40))
    pairs = [
        (d.token_ids, r.response_token_ids[1:3]) for d, r in zip(drafts, recorded(runner, 40, seed=3), strict=True)
    ]
    draftable = [(draft, emitted) for draft, emitted in pairs if max(emitted) < DRAFT_TOKEN_IDS.numel()]
    right = [draft for draft, emitted in draftable if draft == emitted]
    assert len(right) > 0.9 * len(draftable) > 20


def test_no_draft_is_longer_than_asked_for(trained: tuple[LearnableRunner, RecurrentHead], folder: Path) -> None:
    """In a batch of different lengths."""
    runner, _ = trained
    assert [len(draft.token_ids) for draft in loaded(runner, folder).propose(contexts(runner))] == [3, 1, 2]


def test_a_batch_drafts_what_each_sequence_drafts_alone(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path
) -> None:
    """Neighbours change nothing, at any temperature."""
    runner, _ = trained
    drafter = loaded(runner, folder)
    batch = [*contexts(runner), *contexts(runner, temperature=0.8)]
    assert drafter.propose(batch) == [drafter.propose([context])[0] for context in batch]


def test_a_sequence_without_a_state_gets_no_draft(trained: tuple[LearnableRunner, RecurrentHead], folder: Path) -> None:
    """Right after a preemption the target's state isn't known; its neighbours draft all the same."""
    runner, _ = trained
    first, *others = contexts(runner)
    unknown = DraftContext(
        request_id="u", token_ids=first.token_ids, hidden=None, max_draft_tokens=3, seed=0, temperature=0.0
    )
    lengths = [len(draft.token_ids) for draft in loaded(runner, folder).propose([unknown, *others])]
    assert lengths == [0, 1, 2]


def test_a_sampled_draft_uses_the_noise_of_the_position_drafted(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path
) -> None:
    """At a temperature that drowns the logits, the draft is the token with the most noise, for every seed."""
    runner, _ = trained
    drafter = HeadDrafter(name="head", runner=runner)
    few = torch.arange(32)  # fewer than the candidates that compete
    drafter.swap_in(serving_head(RecurrentHead(SHAPE, target_rows(runner, few)), few, runner, revision="r"))
    for context in contexts(runner, temperature=1e6, lengths=[2] * 6):
        expected = tuple(
            int(noise(seed=context.seed, position=len(context.token_ids) + step, vocab_size=32).argmax())
            for step in range(2)
        )
        assert drafter.propose([context])[0].token_ids == expected


def test_the_quick_noise_is_the_noise_of_the_definition() -> None:
    """Seeds of 64 bits, negative ones, high positions and any token."""
    seeds, positions = (5, 2**40 + 3, -7, 2**63 + 11), (3, 100, 7, 200_000)
    token_ids = np.array([[0, 1, 49151, 77], [5, 6, 7, 8], [1, 2, 3, 4], [9, 99, 999, 9999]])
    expected = torch.stack(
        [
            noise(seed=seed, position=position, vocab_size=50_000)[torch.from_numpy(ids)]
            for seed, position, ids in zip(seeds, positions, token_ids, strict=True)
        ]
    )
    found = torch.from_numpy(gumbel_of(seeds=seeds, positions=positions, token_ids=token_ids))
    assert torch.allclose(expected, found, rtol=1e-6, atol=1e-6)


def test_a_drafter_without_a_revision_proposes_nothing(runner: LearnableRunner) -> None:
    """And says that it is Empty."""
    drafter = HeadDrafter(name="head", runner=runner)
    assert [draft.token_ids for draft in drafter.propose(contexts(runner))] == [(), (), ()]
    assert (drafter.state, drafter.reason, drafter.revision) == (DrafterState.EMPTY, "no revision loaded", None)


def test_loading_changes_nothing_before_the_swap(trained: tuple[LearnableRunner, RecurrentHead], folder: Path) -> None:
    """The revision in use stays until the engine's thread swaps; unloading empties it again."""
    runner, _ = trained
    drafter = HeadDrafter(name="head", runner=runner)
    weights = drafter.load(folder, None, "m-head-1", DIGEST)
    states = [drafter.state]
    drafter.swap_in(weights)
    states.append(drafter.state)
    drafter.unload()
    states.append(drafter.state)
    assert states == [DrafterState.EMPTY, DrafterState.ACTIVE, DrafterState.EMPTY]


def test_a_head_of_another_target_is_refused(trained: tuple[LearnableRunner, RecurrentHead], folder: Path) -> None:
    """The message names both digests."""
    runner, _ = trained
    with pytest.raises(SpeculatorError, match=f"found {DIGEST}, wanted {'d' * 64}") as raised:
        HeadDrafter(name="head", runner=runner).load(folder, None, "m-head-1", "d" * 64)
    assert raised.value.reason == "DigestMismatch"


def test_a_file_that_is_not_the_promised_one_is_refused(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path
) -> None:
    """One changed byte is another sha256."""
    runner, head = trained
    sha256, size = write(folder, runner, head)
    weights = folder / artifact.WEIGHTS_FILE
    assert (artifact.sha256_of(weights), weights.stat().st_size) == (sha256, size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(SpeculatorError, match=f"wanted {sha256}") as raised:
        HeadDrafter(name="head", runner=runner).load(folder, sha256, "m-head-1", DIGEST)
    assert raised.value.reason == "ChecksumMismatch"


@pytest.mark.parametrize(
    ("key", "value", "reason", "words"),
    [
        ("target_vocab_size", 97, "VocabularyMismatch", "target vocabulary: found 97, wanted 96"),
        ("hidden_size", 33, "ShapeMismatch", "hidden size: found 33, wanted 32"),
        ("intermediate_size", 65, "ShapeMismatch", r"state_up: found \(128, 32\), wanted \(130, 32\)"),
        ("architectures", ["Eagle3"], "ArchitectureMismatch", "found .'Eagle3',., wanted .'BowspritRecurrentHead',."),
        ("draft_tokens", "many", "InvalidConfig", "draft_tokens"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path, key: str, value: object, reason: str, words: str
) -> None:
    """Naming what was found and what was wanted."""
    runner, _ = trained
    path = folder / artifact.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(SpeculatorError, match=words) as raised:
        HeadDrafter(name="head", runner=runner).load(folder, None, "m-head-1", DIGEST)
    assert raised.value.reason == reason


@pytest.mark.parametrize("name", [artifact.CONFIG_FILE, artifact.WEIGHTS_FILE])
def test_a_missing_file_is_named(trained: tuple[LearnableRunner, RecurrentHead], folder: Path, name: str) -> None:
    """With its whole path."""
    runner, _ = trained
    (folder / name).unlink()
    with pytest.raises(SpeculatorError, match=str(folder / name)) as raised:
        HeadDrafter(name="head", runner=runner).load(folder, None, "m-head-1", DIGEST)
    assert raised.value.reason == "Unreadable"


@pytest.mark.parametrize("spoil", [torch.zeros_like, lambda weight: torch.full_like(weight, torch.nan)])
def test_a_head_that_no_longer_predicts_its_target_is_broken(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path, spoil: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Weights lost or not finite fail the self-test; a revision in use would have stayed."""
    runner, _ = trained
    weights = folder / artifact.WEIGHTS_FILE
    tensors = load_file(weights)
    save_file(tensors | {"output_scale": spoil(tensors["output_scale"])}, weights)
    drafter = HeadDrafter(name="head", runner=runner)
    with pytest.raises(SpeculatorError, match="self-test tokens") as raised:
        drafter.load(folder, None, "m-head-1", DIGEST)
    assert (raised.value.reason, drafter.state) == ("SelfTestFailed", DrafterState.BROKEN)
