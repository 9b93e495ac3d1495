"""A server's start is not walked by every later full collection."""

from __future__ import annotations

import gc

from bowsprit_engine.server import garbage


def test_what_a_process_begins_with_is_left_out_of_later_collections():
    """What comes afterwards is collected as ever."""
    there = [object() for _ in range(3)]
    assert any(one is there for one in gc.get_objects())

    try:
        garbage.leave_out_what_is_here()
        later: list[object] = []
        later.append(later)
        walked = gc.get_objects()
        assert not any(one is there for one in walked)
        assert any(one is later for one in walked)
    finally:
        gc.unfreeze()
