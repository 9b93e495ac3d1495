"""What the running-engine bench asks of its engines."""

from __future__ import annotations

from bench.live_streams import table_of_caps
from bowsprit_engine.model_settings import DrafterChoice


def test_the_table_is_no_limit_at_any_batch():
    """Windows decide within it."""
    (row,) = table_of_caps([DrafterChoice.read("look=Suffix")], 16).table

    assert (row.max_batch_size, [(cap.name, cap.draft_tokens) for cap in row.drafters]) == (None, [("look", 16)])
