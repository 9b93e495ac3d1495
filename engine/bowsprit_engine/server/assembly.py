"""From settings to an engine: the model, its KV cache's size, its drafters. The only place that imports torch at start.

Decides what "auto" means where that needs the model or the machine. Refuses to know ports and requests.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import FinishedRequest
from bowsprit_engine.core.runner import BLOCK_SIZE, Runner
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.model_settings import DrafterChoice, ModelSettings
from bowsprit_engine.models import LoadedModel, load_model
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.policy import SpeculationMode
from bowsprit_policy.wire import DrafterType

AUTO_KV_SHARE = 4  # of the free memory, one part in so many


def load(settings: ModelSettings) -> LoadedModel:
    """Raises ModelError naming the path and the cause."""
    device = resolved_device(settings.device)
    model = load_model(
        resolve_uri(settings.model),
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        device=device,
        backend=settings.backend,
        load_format=settings.load_format,
        num_threads=settings.threads,
    )
    if device == "cpu" and model.runner.is_row_invariant:
        # The native kernels have every core already: torch's own pool only spun on one of them (a sixth of all CPU time
        # per token on 2 cores), and what torch still does in a step is small.
        torch.set_num_threads(1)
    return model


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
    return Engine(
        runner=model.runner,
        settings=EngineSettings(
            model_name=model_name,
            model_digest=model.digest,
            max_batch_size=settings.max_batch_size,
            max_model_len=model.config.max_model_len,
            kv_blocks=_kv_blocks(settings, model),
            draft_tokens_max=settings.draft_tokens_max,
            prefill_chunk=settings.prefill_chunk,
            prefill_delay_steps=settings.prefill_delay_steps,
            has_prefix_cache=settings.prefix_cache == "on",
            max_waiting=max_waiting,
            speculation_mode=speculation,
        ),
        drafters=[_drafter(choice, model.runner) for choice in settings.drafter],
        on_finished=on_finished,
    )


def resolved_device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def free_bytes(device: str) -> int:
    """Memory that is free now: the device's, or the machine's."""
    if device.startswith("cuda"):
        free: int = torch.cuda.mem_get_info(torch.device(device))[0]
        return free
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _kv_blocks(settings: ModelSettings, model: LoadedModel) -> int:
    """As many as the memory holds, and no more than a full batch of full sequences needs."""
    useful = settings.max_batch_size * -(-model.config.max_model_len // BLOCK_SIZE)
    memory = settings.kv_cache_memory
    if memory is None:
        memory = free_bytes(resolved_device(settings.device)) // AUTO_KV_SHARE
    return min(useful, memory // model.runner.kv_bytes_per_block())


def _drafter(choice: DrafterChoice, runner: Runner) -> Drafter:
    match choice.type:
        case DrafterType.NGRAM:
            return NGramDrafter(name=choice.name)
        case DrafterType.HEAD:
            return HeadDrafter(name=choice.name, runner=runner)
