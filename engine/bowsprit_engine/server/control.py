"""The control port: probes, metrics, and the operator's calls on a running engine.

Decides who may call what and how a refusal looks. Bodies are those of bowsprit_policy.wire.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bowsprit_engine.errors import ModelError, SpeculatorError, StalePolicyError
from bowsprit_engine.server import errors
from bowsprit_engine.server.access import Access, UnauthorizedError
from bowsprit_engine.server.daemon_threads import in_thread
from bowsprit_engine.server.lifecycle import Lifecycle, Served
from bowsprit_policy.wire import (
    DrafterLoad,
    DrafterStats,
    EngineStats,
    PolicyStatus,
    PolicyTable,
    Profile,
    TrainingProgress,
)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


class _Guard:
    """Asks for the token before a byte of the body is read, at every path but the open ones."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._access.check(Headers(scope=scope).get("authorization"))
            except UnauthorizedError as error:
                await _unauthorized(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_control_app(lifecycle: Lifecycle, *, access: Access, registry: CollectorRegistry) -> FastAPI:
    """The application of a serving engine's control port."""
    app = _bare_app(access)
    calls = APIRouter(prefix="/control/v1")

    @app.get("/healthz")
    async def healthz() -> Response:
        """Alive: fails only when the engine's thread has ended, which nothing but a restart mends."""
        return PlainTextResponse("failed" if lifecycle.has_failed else "ok", 503 if lifecycle.has_failed else 200)

    @app.get("/readyz")
    async def readyz() -> Response:
        why = lifecycle.why_not_ready()
        return PlainTextResponse(why or "ok", 200 if why is None else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    def served() -> Served:
        """The engine, also while it drains: its last figures count."""
        return lifecycle.served if lifecycle.served is not None else lifecycle.ready()

    @calls.get("/stats")
    async def stats() -> EngineStats:
        return served().engine.stats().model_copy(update={"capture": served().capture.stats()})

    @calls.get("/profile")
    async def profile() -> Profile:
        return served().engine.profile()

    @calls.get("/policy")
    async def policy() -> PolicyStatus:
        return served().engine.policy()

    @calls.put("/policy")
    async def set_policy(table: PolicyTable) -> PolicyStatus:
        return served().engine.set_policy(table)

    @calls.get("/drafters")
    async def drafters() -> list[DrafterStats]:
        return list(served().engine.drafters())

    @calls.put("/drafters/{name}")
    async def load_drafter(name: str, load: DrafterLoad) -> DrafterStats:
        engine = served().engine
        return await in_thread(lambda: engine.load_drafter(name, load))

    @calls.post("/drain", status_code=202)
    async def drain() -> dict[str, int]:
        """Begin what SIGTERM begins; the answer says how many requests are still running."""
        lifecycle.begin_drain()
        return {"requestsInFlight": lifecycle.num_in_flight}

    app.include_router(calls)
    return app


def create_progress_app(progress: Callable[[], TrainingProgress], *, access: Access) -> FastAPI:
    """The application of a training pod's control port."""
    app = _bare_app(access)
    calls = APIRouter(prefix="/control/v1")

    @app.get("/healthz")
    async def healthz() -> Response:
        return PlainTextResponse("ok")

    @calls.get("/progress")
    async def progress_now() -> TrainingProgress:
        return progress()

    app.include_router(calls)
    return app


def _bare_app(access: Access) -> FastAPI:
    app = FastAPI(title="Bowsprit control", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Guard, access=access)
    errors.install(app)
    app.add_exception_handler(StalePolicyError, _answer_stale)
    app.add_exception_handler(SpeculatorError, _answer_unusable)
    app.add_exception_handler(ModelError, _answer_unusable)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return app


def _unauthorized(error: UnauthorizedError) -> Response:
    body = errors.error_body(str(error), type="authentication_error", code="unauthorized")
    return JSONResponse(body, 401, headers={"www-authenticate": "Bearer"})


async def _answer_stale(request: Request, error: Exception) -> Response:
    assert isinstance(error, StalePolicyError)
    body = errors.error_body(str(error), type="conflict", param=error.param, code=error.code)
    return JSONResponse({**body, "stored": error.stored, "offered": error.offered}, 409)


async def _answer_unusable(request: Request, error: Exception) -> Response:
    assert isinstance(error, SpeculatorError | ModelError)
    return JSONResponse(errors.error_body(str(error), type="unusable_artifact", code=error.reason), 422)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]  # without "body"
    return errors.as_response(errors.explain(problems))
