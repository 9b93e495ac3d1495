"""The head as a drafter, and the folder that it is loaded from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.kernels.reference import noise
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.speculation.drafters.keyed_noise import gumbel_of
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.training import artifact
from bowsprit_engine.training.head import RecurrentHead
from bowsprit_policy.wire import DrafterState
from training.learnable import DIGEST, LearnableRunner, recorded, states_of, target_rows
from training.learned_head import DRAFT_TOKEN_IDS, SHAPE, learned, write


@pytest.fixture(scope="module")
def trained() -> tuple[LearnableRunner, RecurrentHead]:
    """A head that has learned the target."""
    runner = LearnableRunner()
    return runner, learned(runner)


@pytest.fixture
def folder(trained: tuple[LearnableRunner, RecurrentHead], tmp_path: Path) -> Path:
    """The head, stored."""
    write(tmp_path / "m-head-1", *trained)
    return tmp_path / "m-head-1"


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
        ("intermediate_size", 4096, "TooLarge", r"size 4,096, draft .*, 806,912 are planned for a head"),
        ("draft_vocab_size", 10**6, "TooLarge", r"draft vocabulary 1,000,000\), 806,912 are planned for a head"),
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


@pytest.mark.parametrize("name", [artifact.CONFIG_FILE, artifact.WEIGHTS_FILE])
def test_a_pipe_is_refused_and_not_waited_for(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path, name: str
) -> None:
    """Whoever opens one waits, and safetensors does so with the interpreter held: every stream would stop."""
    runner, _ = trained
    (folder / name).unlink()
    os.mkfifo(folder / name)
    other_end = os.open(folder / name, os.O_RDWR)  # else a fault would hold the interpreter, and no timeout end it
    try:
        with pytest.raises(SpeculatorError, match="not a regular file") as raised:
            HeadDrafter(name="head", runner=runner).load(folder, None, "m-head-1", DIGEST)
    finally:
        os.close(other_end)
    assert raised.value.reason == "Unreadable"


def test_a_configuration_nested_beyond_reason_is_refused(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path
) -> None:
    """As any other that is none."""
    runner, _ = trained
    (folder / artifact.CONFIG_FILE).write_text("[" * 100_000)
    with pytest.raises(SpeculatorError, match="not a head's configuration") as raised:
        HeadDrafter(name="head", runner=runner).load(folder, None, "m-head-1", DIGEST)
    assert raised.value.reason == "InvalidConfig"


def _with(name: str, index: int, value: float) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def spoil(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        changed = tensors[name].clone()
        changed.view(-1)[index] = value
        return tensors | {name: changed}

    return spoil


def _random(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the right shapes that have learned nothing."""
    dice = torch.Generator().manual_seed(1)
    learned_names = [name for name in tensors if name not in ("d2t", "selftest.hidden", "selftest.token_ids")]
    return tensors | {
        name: torch.randn(tensors[name].shape, generator=dice).to(torch.bfloat16) for name in learned_names
    }


def test_a_head_that_promises_nothing_must_beat_the_commonest_token(
    trained: tuple[LearnableRunner, RecurrentHead], folder: Path
) -> None:
    """Its own word on what it hit when it was made isn't all that it is held to."""
    runner, _ = trained
    weights, config = folder / artifact.WEIGHTS_FILE, folder / artifact.CONFIG_FILE
    tensors = load_file(weights)
    token_ids = tensors["selftest.token_ids"].clone()
    token_ids[: len(token_ids) * 3 // 4, 1] = 5
    save_file(_random(tensors) | {"selftest.token_ids": token_ids}, weights)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"selftest_accuracy": 0.0}))

    with pytest.raises(SpeculatorError, match=r"needs 7[5-9]\.\d%"):
        HeadDrafter(name="head", runner=runner).load(folder, None, "m-head-1", DIGEST)


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (_random, "SelfTestFailed", r"hits .*%.* self-test tokens, needs .*%"),
        (lambda t: t | {"output_scale": t["output_scale"] * 0}, "SelfTestFailed", r"hits .*%.*, needs .*%"),
        (lambda t: t | {"selftest.hidden": t["selftest.hidden"].roll(1, 0)}, "SelfTestFailed", "needs .*%"),
        (_with("down", 7, torch.nan), "NotFinite", "tensor down that are not finite: found 1, wanted 0"),
        (_with("state_up", 7, torch.inf), "NotFinite", "tensor state_up that are not finite: found 1, wanted 0"),
        (_with("selftest.hidden", 7, torch.nan), "NotFinite", "selftest.hidden .* found 1, wanted 0"),
        (_with("d2t", 0, -1), "VocabularyMismatch", "draft vocabulary reaches token -1, the target has 96"),
        (_with("d2t", -1, 200), "VocabularyMismatch", "draft vocabulary reaches token 289, the target has 96"),
        (_with("selftest.token_ids", 0, 96), "VocabularyMismatch", "self-test reaches token 96, the target has 96"),
        (lambda t: t | {"d2t": t["d2t"].float()}, "ShapeMismatch", "d2t: found torch.float32, wanted torch.int64"),
        (lambda t: t | {"down": t["down"][:, 1:].clone()}, "ShapeMismatch", r"found \(32, 63\), wanted \(32, 64\)"),
        (lambda t: {n: v for n, v in t.items() if n != "down"}, "ShapeMismatch", r"found absent, wanted \(32, 64\)"),
    ],
)
def test_a_broken_head_is_refused_and_said_to_be_broken(
    trained: tuple[LearnableRunner, RecurrentHead],
    folder: Path,
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    reason: str,
    words: str,
) -> None:
    """With what was found and what was wanted; it never drafts."""
    runner, _ = trained
    weights = folder / artifact.WEIGHTS_FILE
    save_file(spoil(load_file(weights)), weights)
    drafter = HeadDrafter(name="head", runner=runner)
    with pytest.raises(SpeculatorError, match=words) as raised:
        drafter.load(folder, None, "m-head-1", DIGEST)
    assert (raised.value.reason, drafter.state, drafter.reason) == (reason, DrafterState.BROKEN, str(raised.value))
    assert [draft.token_ids for draft in drafter.propose(contexts(runner))] == [(), (), ()]


def test_a_broken_head_leaves_the_one_in_use(trained: tuple[LearnableRunner, RecurrentHead], folder: Path) -> None:
    """It drafts on, token for token."""
    runner, _ = trained
    drafter = loaded(runner, folder)
    before = drafter.propose(contexts(runner))
    save_file(_random(load_file(folder / artifact.WEIGHTS_FILE)), folder / artifact.WEIGHTS_FILE)
    with pytest.raises(SpeculatorError, match="self-test tokens"):
        drafter.load(folder, None, "m-head-2", DIGEST)
    assert (drafter.state, drafter.propose(contexts(runner))) == (DrafterState.ACTIVE, before)
