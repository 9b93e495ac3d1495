"""A scripted engine whose shadow drafts whenever it can, for tests of the operator's calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.speculation.drafters.base import Drafter
from fakes import FakeRunner


def shadowing_engine(
    drafters: Sequence[Drafter], *, max_model_len: int, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> Engine:
    """Not started. Batches of two, four draft tokens, K = 2; start-up profiles lie in `cache`."""
    monkeypatch.setattr("bowsprit_engine.speculation.shadow.SHARE", 1e9)
    monkeypatch.setenv("BOWSPRIT_CACHE_DIR", str(cache))
    return Engine(
        runner=FakeRunner(),
        settings=EngineSettings(
            model_name="scripted",
            model_digest="digest",
            max_batch_size=2,
            max_model_len=max_model_len,
            kv_blocks=64,
            draft_tokens_max=4,
            prefill_chunk=16,
            speculation_mode=2,
        ),
        drafters=drafters,
    )
