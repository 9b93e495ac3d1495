"""From settings to an engine: the model, its KV cache's size, its drafters. The only place that imports torch at start.

Decides what "auto" means where that needs the model or the machine. Refuses to know ports and requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.memory_budget import MemoryBudget, MemoryPart, readable
from bowsprit_engine.core.request import FinishedRequest
from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.model_settings import DrafterChoice, ModelSettings
from bowsprit_engine.models import DTYPES, LoadedModel, OpenedModel, open_model
from bowsprit_engine.models.memory import largest_head_bytes
from bowsprit_engine.models.runners import RunnerOptions
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.server import draft_models
from bowsprit_engine.server.memory_plan import plan_memory
from bowsprit_engine.speculation.drafters import ngram, suffix
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.table import SpeculationMode
from bowsprit_policy.wire import DrafterType

logger = logging.getLogger(__name__)


def load(settings: ModelSettings) -> LoadedModel:
    """Raises ModelError naming the path and the cause, WorldError for what can't fit into memory, before it is read."""
    opened = open_for(settings)
    budget = memory_budget(settings, opened.config, itemsize=opened.options.dtype.itemsize)
    budget.check()
    logger.info("memory: %s of %s: %s", readable(budget.num_bytes), readable(budget.limit.num_bytes), budget)
    model = opened.load()
    if opened.options.device.type == "cpu" and model.runner.is_row_invariant:
        # The native kernels have every core already: torch's own pool only spun on one of them (a sixth of all CPU time
        # per token on 2 cores), and what torch still does in a step is small.
        torch.set_num_threads(1)
    if not model.runner.is_row_invariant:
        logger.warning(
            "speculation may change an answer where two tokens are nearly equal: logits of %s depend on how many rows "
            "are in a step",
            model.runner.accelerator,
        )
    return model


def open_for(settings: ModelSettings) -> OpenedModel:
    """The model without its weights. Raises ModelError naming the path and the cause."""
    return open_model(
        resolve_uri(settings.model),
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        device=resolved_device(settings.device),
        backend=settings.backend,
        load_format=settings.load_format,
        num_threads=settings.threads,
    )


def memory_budget(settings: ModelSettings, config: ModelConfig, *, itemsize: int) -> MemoryBudget:
    """What an engine with these settings takes. `itemsize`: bytes of a weight and of a cached value.

    Raises ModelError for a backend and a device that don't go together.
    """
    device = resolved_device(settings.device)
    options = RunnerOptions.resolved(
        resolve_uri(settings.model),
        backend=settings.backend,
        dtype=settings.dtype,
        device=device,
        num_threads=settings.threads,
    )
    live_tokens = settings.max_batch_size * config.max_model_len
    parts = [_drafter_memory(choice, config, live_tokens=live_tokens, device=device) for choice in settings.drafter]
    return plan_memory(
        config,
        itemsize=itemsize,
        device=device,
        max_batch_size=settings.max_batch_size,
        prefill_chunk=settings.prefill_chunk,
        draft_tokens_max=settings.draft_tokens_max,
        kv_cache_memory=settings.kv_cache_memory,
        drafters=[part for part in parts if part is not None],
        has_graphs=options.backend == "triton",
        draft_models=draft_models.shapes(settings, device=device),
    )


def assemble(settings: ServeSettings, model: LoadedModel, on_finished: Callable[[FinishedRequest], None]) -> Engine:
    """The engine that these settings serve with, not started yet. Raises CallerError as `engine_of` does."""
    return engine_of(
        settings,
        model,
        model_name=settings.served_name,
        speculation=settings.speculation,
        max_waiting=settings.max_waiting,
        on_finished=on_finished,
    )


def engine_of(
    settings: ModelSettings,
    model: LoadedModel,
    *,
    model_name: str,
    speculation: SpeculationMode,
    max_waiting: int,
    on_finished: Callable[[FinishedRequest], None],
) -> Engine:
    """An engine that is not started yet. Raises CallerError for limits that don't fit together."""
    kv_blocks = memory_budget(settings, model.config, itemsize=DTYPES[model.runner.dtype].itemsize).kv_blocks
    return Engine(
        runner=model.runner,
        settings=EngineSettings(
            model_name=model_name,
            model_digest=model.digest,
            max_batch_size=settings.max_batch_size,
            max_model_len=model.config.max_model_len,
            kv_blocks=kv_blocks,
            draft_tokens_max=settings.draft_tokens_max,
            prefill_chunk=settings.prefill_chunk,
            prefill_delay_steps=settings.prefill_delay_steps,
            has_prefix_cache=settings.prefix_cache == "on",
            max_waiting=max_waiting,
            speculation_mode=speculation,
        ),
        drafters=[_drafter(choice, settings, model, kv_blocks=kv_blocks) for choice in settings.drafter],
        on_finished=on_finished,
    )


def resolved_device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _drafter(choice: DrafterChoice, settings: ModelSettings, model: LoadedModel, *, kv_blocks: int) -> Drafter:
    match choice.type:
        case DrafterType.NGRAM:
            return NGramDrafter(name=choice.name)
        case DrafterType.SUFFIX:
            return SuffixDrafter(name=choice.name, sharing=settings.suffix_sharing)
        case DrafterType.HEAD:
            return HeadDrafter(name=choice.name, runner=model.runner)
        case DrafterType.MODEL:
            device = resolved_device(settings.device)
            return draft_models.drafter(choice, settings, model, device=device, num_blocks=kv_blocks)


def _drafter_memory(choice: DrafterChoice, config: ModelConfig, *, live_tokens: int, device: str) -> MemoryPart | None:
    """None where it is planned by the draft model's own shape, and for look-up beside a GPU, whose memory it isn't in.

    `live_tokens`: of running sequences, at most.
    """
    match choice.type:
        case DrafterType.HEAD:
            num_bytes, detail = 3 * largest_head_bytes(config), "trained weights: in use, in shadow, being loaded"
        case DrafterType.MODEL:
            return None
        case DrafterType.SUFFIX | DrafterType.NGRAM if device.startswith("cuda"):
            return None
        case DrafterType.SUFFIX:
            num_bytes, detail = suffix.memory(live_tokens=live_tokens)
        case DrafterType.NGRAM:
            num_bytes = live_tokens * ngram.BYTES_PER_LIVE_TOKEN
            detail = f"where n-grams of {live_tokens} tokens of running sequences occurred"
    return MemoryPart(name=f"drafter {choice.name}", num_bytes=num_bytes, detail=detail)
