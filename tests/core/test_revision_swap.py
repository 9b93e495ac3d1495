"""Loading a drafter's revision while requests run: beside the one in use, swapped between steps, no token lost."""

from __future__ import annotations

import threading

import pytest

from bowsprit_engine.errors import SpeculatorError
from bowsprit_policy.wire import DrafterLoad, DrafterState
from fakes import FakeDrafter

PROMPT = [5, 6, 7, 8]


class RevisedDrafter(FakeDrafter):
    """A head whose weights are the tokens that it proposes."""

    def __init__(self):
        super().__init__(name="head", draft=lambda _: [])
        self.state = DrafterState.EMPTY
        self.swapping_threads = []

    def load(self, folder, sha256, revision, model_digest):
        if folder.name == "corrupt":
            raise SpeculatorError(f"{folder}: sha256 differs", reason="Corrupt")
        return revision, [int(folder.name)] * 4

    def swap_in(self, loaded):
        self.revision, tokens = loaded
        self.draft = lambda _: tokens
        self.state = DrafterState.ACTIVE
        self.swapping_threads.append(threading.current_thread().name)

    def unload(self):
        self.revision, self.state = None, DrafterState.EMPTY


def test_a_revision_is_swapped_in_between_steps_and_its_figures_begin_again(serve):
    """Requests that run meanwhile answer as ever; the counters are the new revision's."""
    plain = serve(speculation_mode="off").submit("r", PROMPT, max_tokens=200).wait().token_ids
    drafter = RevisedDrafter()
    served = serve(drafters=[drafter], speculation_mode=4)
    is_running = threading.Event()
    answer = served.submit("r", PROMPT, max_tokens=200, on_output=lambda _: is_running.set())
    assert is_running.wait(10)

    first = served.engine.load_drafter("head", DrafterLoad(revision="head-1", uri="file:///claims/1"))
    second = served.engine.load_drafter("head", DrafterLoad(revision="head-2", uri="file:///claims/2"))

    assert (first.revision, first.state, second.revision) == ("head-1", DrafterState.ACTIVE, "head-2")
    assert answer.wait().token_ids == plain
    assert drafter.swapping_threads == ["bowsprit-engine"] * 2


def test_unloading_leaves_the_drafter_empty(serve):
    """Serving goes on without it."""
    served = serve(drafters=[RevisedDrafter()], speculation_mode=4)
    served.engine.load_drafter("head", DrafterLoad(revision="head-1", uri="file:///claims/1"))
    served.submit("r", PROMPT, max_tokens=20).wait()

    stats = served.engine.load_drafter("head", DrafterLoad(revision=None))

    assert (stats.revision, stats.state, stats.drafted_tokens) == (None, DrafterState.EMPTY, 0)
    assert len(served.submit("s", PROMPT, max_tokens=20).wait().token_ids) == 20


def test_a_corrupt_revision_leaves_the_one_in_use(serve):
    """The caller hears the cause; nothing was swapped."""
    served = serve(drafters=[RevisedDrafter()])
    served.engine.load_drafter("head", DrafterLoad(revision="head-1", uri="file:///claims/1"))

    with pytest.raises(SpeculatorError, match="sha256 differs"):
        served.engine.load_drafter("head", DrafterLoad(revision="head-2", uri="file:///claims/corrupt"))

    assert served.engine.drafters()[0].revision == "head-1"
