"""What a training run may be told of the pool that judges its head."""

from __future__ import annotations

from typing import Any

import pytest

from bowsprit_engine.config import TrainSettings, settings_from
from bowsprit_engine.errors import CallerError
from bowsprit_engine.model_settings import DrafterChoice
from bowsprit_policy.wire import DrafterType

REQUIRED = {"model": "m.gguf", "capture_uri": "/c", "output_uri": "/o", "revision": "m-head-1"}


def told(**given: Any) -> TrainSettings:
    return settings_from(TrainSettings, REQUIRED | given)


def test_the_drafters_of_the_service_are_told_as_serve_is_told_them() -> None:
    """A repeated flag; the names are those of tables and metrics."""
    assert told(beside=["suffix=Suffix", "own=NGram"]).beside == (
        DrafterChoice(name="suffix", type=DrafterType.SUFFIX),
        DrafterChoice(name="own", type=DrafterType.NGRAM),
    )


def test_a_head_is_judged_alone_unless_told_otherwise() -> None:
    """A default pool would be in the figures of a model that doesn't have it."""
    assert told().beside == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"beside": ["other=Head"]}, "beside: other is of type Head; replayed are NGram and Suffix alone"),
        ({"beside": ["small=Model:/models/s"]}, "beside: small is of type Model; replayed are NGram and Suffix alone"),
        ({"beside": ["head=NGram"]}, "two drafters share a name: head head"),
        ({"draft_tokens": 6, "draft_tokens_max": 5}, "draft_tokens 6 is above draft_tokens_max 5"),
    ],
)
def test_a_pool_that_cannot_be_judged_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    """In one line, with what was told."""
    with pytest.raises(CallerError, match=words):
        told(**given)
