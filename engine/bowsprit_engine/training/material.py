"""What a run learns from and is judged by: captured traffic, read, split, and cut to what the run's limits hold.

Decides what can't be used and says why. Refuses to know the model's weights: all of it is known before they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from bowsprit_engine.capture.reader import CapturedTraffic, num_tokens, read_shards
from bowsprit_engine.config import TrainSettings
from bowsprit_engine.core.runner import ModelConfig
from bowsprit_engine.errors import WorldError
from bowsprit_engine.training import data, selection
from bowsprit_engine.training.data import RequestRows, Split
from bowsprit_engine.training.features import Features
from bowsprit_engine.training.selection import Chosen
from bowsprit_policy.wire import DataWindow

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """`captured_tokens`: of all that was read, prompts included. `base`: of the base sample, where there is one."""

    window: DataWindow
    captured_tokens: int
    split: Split
    base: Split | None
    chosen: Chosen


def tokens_to_gather(settings: TrainSettings, *, digest: str) -> int:
    """Of all that `gather` would read, before any of it is. Raises WorldError where a folder can't be listed."""
    uris = [uri for uri in (settings.capture_uri, settings.base_uri) if uri is not None]
    return sum(num_tokens(uri, model_digest=digest, max_tokens=settings.max_tokens) for uri in uris)


def gather(settings: TrainSettings, config: ModelConfig, *, digest: str) -> Material:
    """Raises WorldError with a reason, naming a path or two numbers, where it isn't enough."""
    traffic = _read(settings, digest)
    split = _split(settings, config, traffic)
    captured_tokens = _num_tokens(traffic)
    base = None
    if settings.base_uri is not None:
        base_traffic = read_shards(settings.base_uri, model_digest=digest, max_tokens=settings.max_tokens)
        base = _split(settings, config, base_traffic)
        captured_tokens += _num_tokens(base_traffic)
    window = DataWindow(
        start=traffic.requests[0].time,
        end=traffic.requests[-1].time,
        shards=traffic.shards,
        requests_train=0,
        requests_holdout=0,
        tokens=0,
        unreadable_shards=len(traffic.unreadable),
    )
    chosen = selection.choose(split, base, hidden_size=config.hidden_size, max_state_bytes=settings.scratch_limit)
    return Material(window=window, captured_tokens=captured_tokens, split=split, base=base, chosen=chosen)


def used(material: Material, states: Features, trained: Sequence[RequestRows]) -> DataWindow:
    """The window with what was trained on and judged by in the end."""
    requests: list[RequestRows] = [*trained, *states.validation, *states.holdout]
    return material.window.model_copy(
        update={
            "requests_train": len(trained) + len(states.validation),
            "requests_holdout": len(states.holdout),
            "tokens": sum(len(request.prompt_token_ids) + len(request.token_ids) for request in requests),
        }
    )


def _read(settings: TrainSettings, digest: str) -> CapturedTraffic:
    traffic = read_shards(settings.capture_uri, model_digest=digest, max_tokens=settings.max_tokens)
    for shard, reason in traffic.unreadable:
        logger.warning("shard %s is left out: %s", shard, reason)
    if traffic.unreadable and not traffic.requests:
        raise WorldError(
            f"none of the {len(traffic.unreadable)} shards at {settings.capture_uri} can be read: {_first(traffic)}",
            reason="UnreadableShards",
        )
    return traffic


def _split(settings: TrainSettings, config: ModelConfig, traffic: CapturedTraffic) -> Split:
    requests = data.usable(traffic.requests, vocab_size=config.vocab_size, max_model_len=config.max_model_len)
    try:
        return data.split(requests, min_holdout_requests=settings.min_holdout_requests)
    except WorldError as error:
        if not traffic.unreadable:
            raise
        message = f"{error}; {len(traffic.unreadable)} shards can't be read: {_first(traffic)}"
        raise WorldError(message, reason=error.reason) from error


def _num_tokens(traffic: CapturedTraffic) -> int:
    return sum(request.num_tokens for request in traffic.requests)


def _first(traffic: CapturedTraffic) -> str:
    shard, reason = traffic.unreadable[0]
    return f"{shard}: {reason}"[:500]
