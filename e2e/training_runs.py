"""Training runs as tests and the demo follow them: traffic to learn from, the run that it triggers, and its verdict."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import streams
from installation import data_folder
from kube import Json, Kube, is_true
from served_model import ServedModel
from traffic import Answer, Message, Prompt

MAX_TOKENS = 40


def narrow(count: int, *, skip: int = 0, seed: int = 11) -> list[Prompt]:
    """Questions of one family of schemas; with the same seed, the first `skip` are those of another call."""
    return _prompts(streams.narrow_stream(skip + count, seed)[skip:])


def _prompts(messages: Iterable[list[Message]]) -> list[Prompt]:
    return [Prompt(messages=tuple(asked), max_tokens=MAX_TOKENS) for asked in messages]


def noise(count: int) -> list[Prompt]:
    """Answers drawn as hot as can be asked for: the next token is nearly anybody's guess, and little can be learnt."""
    return [
        Prompt(
            messages=({"role": "user", "content": f"Say anything at all ({number})."},),
            max_tokens=24,
            temperature=2.0,
            seed=number,
        )
        for number in range(count)
    ]


def acceptance_length(answers: Iterable[Answer]) -> float:
    """Tokens per sequence-step over all of them: a step gives its accepted drafts and one token more."""
    seen = list(answers)
    tokens = sum(answer.tokens for answer in seen)
    return tokens / (tokens - sum(answer.accepted for answer in seen))


def runs_of(model: ServedModel) -> list[Json]:
    """Oldest first."""
    found = [run for run in model.kube.list("strain") if run["spec"]["modelName"] == model.name]
    return sorted(found, key=lambda run: str(run["metadata"]["creationTimestamp"]))


def start_by_hand(model: ServedModel, name: str) -> None:
    """A user's own SpeculatorTraining."""
    model.kube.apply(
        {
            "apiVersion": "bowsprit.dev/v1alpha1",
            "kind": "SpeculatorTraining",
            "metadata": {"name": name, "namespace": model.kube.namespace},
            "spec": {"modelName": model.name, "drafter": "head"},
        }
    )


def ended(kube: Kube, name: str) -> Json | None:
    """The SpeculatorTraining once it is Complete or Failed."""
    run = kube.get("strain", name)
    return run if run is not None and (is_true(run, "Complete") or is_true(run, "Failed")) else None


def capture_folder(model: ServedModel) -> Path:
    """Its shards on this machine."""
    folder = data_folder(model.kube.cluster, model.kube.namespace)
    return folder / model.kube.namespace / model.name / str(model.resource["metadata"]["uid"]) / "capture"


@contextmanager
def replaced_traffic(model: ServedModel, *, by: ServedModel) -> Iterator[None]:
    """While the body runs, the captured traffic of `model` is that of `by`, which serves the same weights."""
    folder = capture_folder(model)
    aside = folder.with_name("capture-aside")
    folder.rename(aside)
    shutil.copytree(capture_folder(by), folder, copy_function=_copied_with_owner)
    shutil.copystat(aside, folder)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        aside.rename(folder)


def _copied_with_owner(source: str, target: str) -> str:
    shutil.copy2(source, target)
    owner = Path(source).stat()
    os.chown(target, owner.st_uid, owner.st_gid)
    return target


def set_training(model: ServedModel, **training: Any) -> None:
    """Change spec.training as a user would."""
    _patch(model, {"training": training})


def set_promotion(model: ServedModel, **promotion: Any) -> None:
    """Change spec.promotion as a user would."""
    _patch(model, {"promotion": promotion})


def _patch(model: ServedModel, spec: Json) -> None:
    patch = json.dumps({"spec": spec})
    model.kube.run("patch", "smodel", model.name, "--type=merge", f"--patch={patch}")
