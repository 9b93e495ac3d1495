"""Draft models from their URIs: opened like the target, compared with it, loaded; or Broken with the reason.

Decides what makes a model unfit to draft for another one. A speculator that can't be used never stops serving, so
nothing is raised here: the drafter says what is wrong, and the pod serves without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.core.sampling import choose_draw
from bowsprit_engine.errors import SpeculatorError, WorldError
from bowsprit_engine.model_settings import DrafterChoice, ModelSettings
from bowsprit_engine.models import LoadedModel, OpenedModel, open_model
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.small_model import SmallModelDrafter, UnusableDrafter
from bowsprit_policy.wire import DrafterType

logger = logging.getLogger(__name__)


def shapes(settings: ModelSettings, *, device: str) -> list[ModelConfig]:
    """Of the draft models that can be opened, to budget their memory. One that can't takes none."""
    found = []
    for choice in settings.drafter:
        if choice.type is DrafterType.MODEL:
            try:
                found.append(_open(choice, settings, device).config)
            except WorldError as error:
                logger.warning("no memory is planned for drafter %s: %s", choice.name, error)
    return found


def drafter(
    choice: DrafterChoice, settings: ModelSettings, target: LoadedModel, *, device: str, num_blocks: int
) -> Drafter:
    """A drafter that is Active, or Broken and says why. `num_blocks`: of its KV cache, as many as the target has."""
    try:
        opened = _open(choice, settings, device)
        check_vocabulary(opened.tokenizer, target.tokenizer, uri=str(choice.uri))
        runner = opened.load().runner
    except WorldError as error:
        logger.error("drafter %s is Broken, the engine serves without it: %s", choice.name, error)
        return UnusableDrafter(name=choice.name, reason=str(error))
    return SmallModelDrafter(
        name=choice.name,
        runner=runner,
        num_blocks=num_blocks,
        target_vocab_size=target.config.vocab_size,
        chunk_tokens=settings.prefill_chunk,
        draw=choose_draw(runner.final_norm_weight().device),
    )


def check_vocabulary(tokenizer: Any, target_tokenizer: Any, *, uri: str) -> None:
    """Both must give the same text to every token id; logits beyond them, which are padding, may differ in number.

    Raises SpeculatorError with both values.
    """
    ours: Mapping[str, int] = target_tokenizer.get_vocab()
    theirs: Mapping[str, int] = tokenizer.get_vocab()
    if len(ours) != len(theirs):
        raise SpeculatorError(
            f"{uri}: a vocabulary of {len(theirs)} tokens can't draft for the target's of {len(ours)}",
            reason="VocabularyMismatch",
        )
    for token, index in ours.items():
        if theirs.get(token) != index:
            raise SpeculatorError(
                f"{uri}: token {token!r} is {theirs.get(token)}, in the target's vocabulary it is {index}",
                reason="VocabularyMismatch",
            )


def _open(choice: DrafterChoice, settings: ModelSettings, device: str) -> OpenedModel:
    return open_model(
        resolve_uri(choice.uri or ""),
        dtype=settings.dtype,
        device=device,
        backend=settings.backend,
        load_format=settings.load_format,
    )
