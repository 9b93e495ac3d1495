"""A speculator's folder: model.safetensors, config.json, evaluation.json, in the layout of vLLM's `speculators`.

Decides how a head is written (temporary folder, then one rename: a half-written one is never seen) and which folder is
refused: another file than promised, another target, other shapes. The layout is that of `speculators`; the architecture
is our own, so vLLM lists such a folder but can't run it. Knows nothing of training or serving.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.models.memory import head_bytes
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows
from bowsprit_policy.wire import Evaluation

ARCHITECTURE = "BowspritRecurrentHead"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
EVALUATION_FILE = "evaluation.json"


class HeadConfig(BaseModel):
    """config.json. `selftest_accuracy`: share of the self-test rows whose next token the head hit when it was made.

    `confidence_temperature`: what logits are divided by before they tell how sure a draft is (training/calibration.py).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    architectures: tuple[str, ...] = (ARCHITECTURE,)
    speculators_model_type: str = "bowsprit_recurrent_head"
    hidden_size: int
    intermediate_size: int
    draft_vocab_size: int = Field(gt=0)
    rms_norm_eps: float
    draft_tokens: int
    target_model_digest: str
    target_vocab_size: int
    target_eos_token_ids: tuple[int, ...]
    revision: str
    parent: str | None
    selftest_accuracy: float = Field(ge=0, le=1)
    confidence_temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @property
    def shape(self) -> HeadShape:
        return HeadShape(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            rms_norm_eps=self.rms_norm_eps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """Rows of the target's own continuations, kept with the head so that whoever loads it can see that it works."""

    hidden: Tensor  # [n, D] float32, rows that emitted token_ids[:, 0]
    token_ids: Tensor  # [n, 2] int64: the emitted token, and the one after it


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHead:
    """What a folder holds. `weights`: the head's parameters by name."""

    config: HeadConfig
    draft_token_ids: Tensor  # [V] int64
    weights: dict[str, Tensor]
    selftest: SelfTest


def write(
    folder: Path, *, head: RecurrentHead, config: HeadConfig, draft_token_ids: Tensor, selftest: SelfTest
) -> tuple[str, int]:
    """Fill `folder` (made anew) without its evaluation; returns sha256 and size of the weights file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in head.state_dict().items()}
    tensors["d2t"] = draft_token_ids - torch.arange(draft_token_ids.numel())  # offsets, as in speculators
    tensors["selftest.hidden"] = selftest.hidden.to(torch.float32).contiguous()
    tensors["selftest.token_ids"] = selftest.token_ids.contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors writes 0600; other pods read it as another user
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=1))
    return sha256_of(folder / WEIGHTS_FILE), (folder / WEIGHTS_FILE).stat().st_size


def publish(staged: Path, final: Path, evaluation: Evaluation) -> None:
    """Add evaluation.json, make all durable and rename the folder. An existing `final` is replaced."""
    (staged / EVALUATION_FILE).write_text(evaluation.model_dump_json(indent=1))
    for path in staged.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(final)


def read(
    folder: Path, *, max_bytes: int, sha256: str | None, model_digest: str, vocab_size: int, hidden_size: int
) -> StoredHead:
    """Everything in the folder, checked. `max_bytes`: what the head may take in memory; a larger one isn't read.

    Raises SpeculatorError that names the path and both sides of a mismatch.
    """
    config = _read_config(folder / CONFIG_FILE)
    _must_equal(folder, "DigestMismatch", "trained for target", config.target_model_digest, model_digest)
    _must_equal(folder, "VocabularyMismatch", "target vocabulary", config.target_vocab_size, vocab_size)
    _must_equal(folder, "ShapeMismatch", "hidden size", config.hidden_size, hidden_size)
    num_bytes = head_bytes(
        hidden_size=hidden_size,
        intermediate_size=config.intermediate_size,
        draft_vocab_size=config.draft_vocab_size,
    )
    if num_bytes > max_bytes:
        raise SpeculatorError(
            f"{folder}: takes {num_bytes:,} bytes (intermediate size {config.intermediate_size:,}, draft vocabulary "
            f"{config.draft_vocab_size:,}), {max_bytes:,} are planned for a head",
            reason="TooLarge",
        )
    weights_file = folder / WEIGHTS_FILE
    try:
        _check_is_file(weights_file)
        # Read whole, also without a sum to compare: safetensors holds the interpreter while it opens a file, so that a
        # mount that hangs then would stop every stream. Whoever waits here lets others go on.
        found = sha256_of(weights_file)
        if sha256 is not None:
            _must_equal(folder, "ChecksumMismatch", f"sha256 of {WEIGHTS_FILE}", found, sha256)
        tensors = load_file(weights_file)
    except (OSError, SafetensorError) as error:
        raise SpeculatorError(f"{weights_file}: can't be read: {error}", reason="Unreadable") from error
    _check_shapes(weights_file, config, tensors)
    _check_values(weights_file, config, tensors)
    draft_token_ids = tensors["d2t"] + torch.arange(config.draft_vocab_size)
    _check_tokens(weights_file, "draft vocabulary", draft_token_ids, vocab_size)
    _check_tokens(weights_file, "self-test", tensors["selftest.token_ids"], vocab_size)
    return StoredHead(
        config=config,
        draft_token_ids=draft_token_ids,
        weights={name: tensors[name].to(torch.float32) for name in _parameter_shapes(config)},
        selftest=SelfTest(hidden=tensors["selftest.hidden"], token_ids=tensors["selftest.token_ids"]),
    )


def build(stored: StoredHead, target: TargetRows) -> RecurrentHead:
    """The stored head as a module, on the target's rows."""
    head = RecurrentHead(stored.config.shape, target)
    head.load_state_dict(stored.weights)
    return head


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_config(path: Path) -> HeadConfig:
    try:
        _check_is_file(path)
        config = HeadConfig.model_validate(json.loads(path.read_text()))
    except OSError as error:
        raise SpeculatorError(f"{path}: can't be read: {error}", reason="Unreadable") from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise SpeculatorError(f"{path}: not a head's configuration: {error}", reason="InvalidConfig") from error
    _must_equal(path, "ArchitectureMismatch", "architectures", config.architectures, (ARCHITECTURE,))
    return config


def _check_is_file(path: Path) -> None:
    """A pipe or a device keeps whoever opens it waiting. Raises OSError where there is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise SpeculatorError(f"{path}: can't be read: not a regular file", reason="Unreadable")


def _parameter_shapes(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    d, w = config.hidden_size, config.intermediate_size
    return {
        "state_scale": (d,),
        "token_scale": (d,),
        "output_scale": (d,),
        "state_up": (2 * w, d),
        "token_up": (2 * w, d),
        "down": (d, w),
    }


def _check_shapes(path: Path, config: HeadConfig, tensors: dict[str, Tensor]) -> None:
    selftest_rows = tensors["selftest.hidden"].shape[0] if "selftest.hidden" in tensors else 0
    expected = {
        **_parameter_shapes(config),
        "d2t": (config.draft_vocab_size,),
        "selftest.hidden": (selftest_rows, config.hidden_size),
        "selftest.token_ids": (selftest_rows, 2),
    }
    for name, shape in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else "absent"
        _must_equal(path, "ShapeMismatch", f"tensor {name}", found, shape)


def _check_values(path: Path, config: HeadConfig, tensors: dict[str, Tensor]) -> None:
    for name in (*_parameter_shapes(config), "selftest.hidden"):
        num_bad = int((~torch.isfinite(tensors[name])).sum())
        _must_equal(path, "NotFinite", f"values of tensor {name} that are not finite", num_bad, 0)
    for name in ("d2t", "selftest.token_ids"):
        _must_equal(path, "ShapeMismatch", f"type of tensor {name}", tensors[name].dtype, torch.int64)


def _check_tokens(path: Path, what: str, token_ids: Tensor, vocab_size: int) -> None:
    for token_id in (int(token_ids.min()), int(token_ids.max())) if token_ids.numel() else ():
        if not 0 <= token_id < vocab_size:
            raise SpeculatorError(
                f"{path}: {what} reaches token {token_id}, the target has {vocab_size}", reason="VocabularyMismatch"
            )


def _must_equal(path: Path, reason: str, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise SpeculatorError(f"{path}: {what}: found {found}, wanted {wanted}", reason=reason)
