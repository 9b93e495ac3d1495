"""A training pod's control port, beside the run: `with progress_port(settings, current): train()`."""

from __future__ import annotations

from collections.abc import Callable

from bowsprit_engine.config import ControlSettings
from bowsprit_engine.server.access import Access, Trust
from bowsprit_engine.server.control import create_progress_app
from bowsprit_engine.server.listeners import Listener, ListenerThread
from bowsprit_policy.wire import TrainingProgress


def progress_port(settings: ControlSettings, progress: Callable[[], TrainingProgress]) -> ListenerThread:
    """GET /control/v1/progress answers with `progress()`, called in another thread. Raises WorldError (port in use)."""
    app = create_progress_app(progress, access=Access(Trust.of(settings)))
    return ListenerThread(Listener(app, host=settings.control_host, port=settings.control_port, name="control"))
