"""Loading a drafter's revision while requests run: beside the one in use, swapped between steps, no token lost."""

from __future__ import annotations

import threading

import pytest

from bowsprit_engine.core import revisions
from bowsprit_engine.errors import SpeculatorError, WorldError
from bowsprit_engine.speculation.policy import PolicyExecutor
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_policy.wire import DrafterLoad, DrafterState
from fakes import FakeDrafter

PROMPT = [5, 6, 7, 8]


class RevisedDrafter(FakeDrafter):
    """A head whose weights are the tokens that it proposes."""

    def __init__(self, while_loading=lambda: None):
        super().__init__(name="head", draft=lambda _: [])
        self.state = DrafterState.EMPTY
        self.swapping_threads = []
        self.while_loading = while_loading

    def load(self, folder, sha256, revision, model_digest):
        self.while_loading()
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


def test_one_revision_is_loaded_at_a_time_and_nobody_waits_for_ever(serve, monkeypatch):
    """Memory is budgeted for one beside those in use; a file that hangs must not keep everybody who comes after it."""
    monkeypatch.setattr(revisions, "PATIENCE_SECONDS", 0.0)
    refusals = []

    def come_second():
        with pytest.raises(WorldError, match="another load has not ended") as refused:
            served.engine.load_drafter("head", DrafterLoad(revision="head-2", uri="file:///claims/2"))
        refusals.append(refused.value.reason)

    def while_loading():
        drafter.while_loading = lambda: None
        second = threading.Thread(target=come_second)
        second.start()
        second.join()

    drafter = RevisedDrafter(while_loading)
    served = serve(drafters=[drafter])
    first = served.engine.load_drafter("head", DrafterLoad(revision="head-1", uri="file:///claims/1"))
    third = served.engine.load_drafter("head", DrafterLoad(revision="head-3", uri="file:///claims/3"))

    assert (refusals, first.revision, third.revision) == (["Loading"], "head-1", "head-3")


@pytest.mark.parametrize("part", [PolicyExecutor, DrafterPool])
def test_who_judged_the_old_revision_is_told_of_the_new_one(serve, monkeypatch, part):
    """Being held at 0, and what its drafts were believed to be worth, are no evidence against the next one."""
    told = []
    begin_revision = part.begin_revision

    def hear(self, name):
        told.append(name)
        begin_revision(self, name)

    monkeypatch.setattr(part, "begin_revision", hear)
    served = serve(drafters=[RevisedDrafter()])
    served.engine.load_drafter("head", DrafterLoad(revision="head-1", uri="file:///claims/1"))
    served.engine.load_drafter("head", DrafterLoad(revision=None))

    assert told == ["head", "head"]
