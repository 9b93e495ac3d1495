"""Which revision of a drafter serves and which is its shadow: loading, promoting, unloading, while requests run.

Decides what has to be read and what is in memory already, and that every change happens between two steps. Refuses to
know what a revision is made of (its drafter's `load`) and how it fares.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from bowsprit_engine.errors import CallerError, WorldError
from bowsprit_engine.models.uri import resolve_uri
from bowsprit_engine.speculation.drafters.base import Drafter, LoadableDrafter, ShadowableDrafter
from bowsprit_engine.speculation.shadow import Candidate, Shadows
from bowsprit_policy.wire import DrafterLoad, DrafterRole, DrafterState

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0  # for another load to end, which a mount that hangs may never do


class Revisions:
    """The revisions of an engine's drafters. `carry_out` may be called from any thread, the engine's own excepted.

    `between_steps` has the engine's thread run a function and returns when it has; `begin_revision` is told there of
    every change of who serves.
    """

    def __init__(
        self,
        *,
        drafters: Mapping[str, Drafter],
        shadows: Shadows,
        model_digest: str,
        draft_tokens_max: int,
        between_steps: Callable[[Callable[[], None]], None],
        begin_revision: Callable[[str, str | None], None],
    ) -> None:
        self._drafters = drafters
        self._shadows = shadows
        self._model_digest = model_digest
        self._draft_tokens_max = draft_tokens_max
        self._between_steps = between_steps
        self._begin_revision = begin_revision
        self._one_at_a_time = threading.Lock()  # memory is budgeted for one revision beside those in use

    def carry_out(self, name: str, load: DrafterLoad) -> None:
        """Load in the calling thread what isn't loaded yet, and use it from the next step on; None unloads.

        Raises CallerError for what can't be done with this drafter, SpeculatorError for a speculator that doesn't fit,
        WorldError (reason Loading) where another load doesn't end; what is in use stays then.
        """
        drafter = self._loadable(name)
        with self._alone(name):
            if load.role is DrafterRole.SHADOW:
                self._shadow(drafter, name, load)
            else:
                self._serve(drafter, name, load)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        if not self._one_at_a_time.acquire(timeout=PATIENCE_SECONDS):
            message = f"drafter {name}: another load has not ended in {PATIENCE_SECONDS:g} s, and one runs at a time"
            raise WorldError(message, reason="Loading")
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def _loadable(self, name: str) -> LoadableDrafter:
        drafter = self._drafters.get(name)
        if drafter is None:
            raise CallerError(
                f"no drafter {name!r}, there are {sorted(self._drafters)}", param="name", code="not_found"
            )
        if not isinstance(drafter, LoadableDrafter):
            raise CallerError(f"drafter {name!r} of type {drafter.type} has no revisions", param="name")
        return drafter

    def _serve(self, drafter: LoadableDrafter, name: str, load: DrafterLoad) -> None:
        revision = load.revision
        if revision is None:
            self._between_steps(lambda: self._swap(name, None, drafter.unload))
        elif self._shadows.holds(name, revision=revision, uri=load.uri, sha256=load.sha256):
            self._between_steps(
                lambda: self._swap(name, revision, lambda: drafter.swap_in(self._shadows.take(name, revision)))
            )
        else:
            loaded = drafter.load(resolve_uri(_uri(load)), load.sha256, revision, self._model_digest)
            self._between_steps(lambda: self._swap(name, revision, lambda: drafter.swap_in(loaded)))

    def _swap(self, name: str, revision: str | None, swap: Callable[[], None]) -> None:
        swap()
        if revision is not None:
            self._shadows.drop_revision(name, revision)  # compared with itself it would say nothing
        self._begin_revision(name, revision)
        logger.info("drafter %s: revision %s in use", name, revision)

    def _shadow(self, drafter: LoadableDrafter, name: str, load: DrafterLoad) -> None:
        if not isinstance(drafter, ShadowableDrafter):
            raise CallerError(f"drafter {name!r} can't draft by a second revision beside its own", param="role")
        revision = load.revision
        if revision is None:
            self._between_steps(lambda: self._shadows.drop(name))
            return
        if self._draft_tokens_max == 0:
            raise CallerError("no shadow can be scored: this engine's most draft tokens are 0", param="role")
        if revision == drafter.revision and drafter.state is DrafterState.ACTIVE:
            raise CallerError(f"revision {revision!r} serves: it can't be its own shadow", param="revision")
        if self._shadows.holds(name, revision=revision, uri=load.uri, sha256=load.sha256):
            return
        candidate = Candidate(revision=revision, uri=_uri(load), sha256=load.sha256)
        weights = drafter.load_beside(resolve_uri(candidate.uri), load.sha256, revision, self._model_digest)
        self._between_steps(
            lambda: self._shadows.put(drafter, candidate, weights, draft_tokens_max=self._draft_tokens_max)
        )
        logger.info("drafter %s: revision %s is its shadow, beside %s", name, revision, drafter.revision)


def _uri(load: DrafterLoad) -> str:
    if load.uri is None:
        raise CallerError(f"revision {load.revision!r} needs a uri", param="uri")
    return load.uri
