"""An engine's control port over real HTTP on loopback, with a simulated service behind it.

It keeps the rules of the contract: an older table gets 409, the same one 200; counters begin again with a new boot;
a wrong token gets 401. A test tells it how to misbehave.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bowsprit_policy import wire
from bowsprit_policy.wire import DrafterState, DrafterType
from policy.simulated_service import SimulatedDrafter, SimulatedService

CONTROL_PORT = 8001
# The port is the contract's, so every engine has an address of its own, and so has every test process beside this one.
_PROCESS = 1 + os.getpid() % 250
_addresses = (f"127.{_PROCESS}.{high}.{low}" for high, low in itertools.product(range(1, 250), range(1, 250)))


def paying_service(*, matches: float = 0.9) -> SimulatedService:
    """An n-gram drafter that proposes in half of the steps, and rows that cost next to nothing."""
    return SimulatedService(
        drafters=[
            SimulatedDrafter(name="ngram", type=DrafterType.NGRAM, share=0.5, matches=(matches,) * 32),
            SimulatedDrafter(
                name="head", type=DrafterType.HEAD, share=1.0, matches=(0.5,) * 32, state=DrafterState.EMPTY
            ),
        ],
        step_seconds=lambda batch, rows: 0.010 + 0.0001 * rows,
    )


@dataclass(slots=True, kw_only=True)
class FakeEngine:
    """`token`: the one it accepts, None for any. `is_silent`: it never answers. `refusal`: what a load gets as 400.

    `failed_self_test`: why a revision that it loads is not kept: it answers 200, with what it serves on.
    `shadow_refusal`: what a load for the shadow gets as 400; `shadow_failure`: as this status with this error.
    `knows_shadows`: False is an engine of the version before them, which takes any role for serving. `reads`:
    revisions that were read from storage. `shadow_matches`: matched tokens of candidate and incumbent at each place
    that a tick of traffic scores. `lowered`: what it holds below the table by itself; `lowered_by_push`: from the next
    table on.
    """

    service: SimulatedService = field(default_factory=paying_service)
    ip: str = field(default_factory=lambda: next(_addresses))
    token: str | None = None
    is_silent: bool = False
    refusal: str | None = None
    failed_self_test: str | None = None
    shadow_refusal: str | None = None
    shadow_failure: tuple[int, dict[str, str]] | None = None
    knows_shadows: bool = True
    shadow_matches: Sequence[tuple[int, int]] = ()
    shadow: wire.ShadowStats | None = None
    lowered: tuple[wire.LoweredDrafter, ...] = ()
    lowered_by_push: tuple[wire.LoweredDrafter, ...] | None = None
    reads: list[str] = field(default_factory=list)
    revision: int = 0
    table: tuple[wire.TableRow, ...] = ()
    capture: wire.CaptureStats = field(default_factory=wire.CaptureStats)
    progress: wire.TrainingProgress = field(
        default_factory=lambda: wire.TrainingProgress(phase=wire.TrainingPhase.TRAINING, step=3, steps=10)
    )
    pushes: list[wire.PolicyTable] = field(default_factory=list)
    loads: list[tuple[str, wire.DrafterLoad]] = field(default_factory=list)
    profiles_served: int = 0

    def run_traffic(self) -> None:
        """One tick of traffic under the table that was pushed last."""
        self.service.run(self.table)
        if self.shadow is not None:
            self.shadow = scored(self.shadow, self.shadow_matches)

    def restart(self) -> None:
        """A new process of the same pod: no table, no speculator, counters at 0."""
        self.service.restart()
        self.revision, self.table, self.shadow = 0, (), None
        for drafter in self.service.drafters:
            if drafter.type is DrafterType.HEAD:
                drafter.revision, drafter.state = None, DrafterState.EMPTY

    def loaded(self, drafter: str) -> str | None:
        return next(known.revision for known in self.service.drafters if known.name == drafter)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeEngine]:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/control/v1/stats", self._stats)
        app.router.add_get("/control/v1/profile", self._profile)
        app.router.add_get("/control/v1/progress", self._progress)
        app.router.add_put("/control/v1/policy", self._put_policy)
        app.router.add_put("/control/v1/drafters/{name}", self._put_drafter)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self.ip, CONTROL_PORT).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: web.RequestHandler) -> web.StreamResponse:  # type: ignore[type-arg]
        if self.is_silent:
            await asyncio.Event().wait()
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": {"message": "wrong token"}}, status=401)
        return await handler(request)  # type: ignore[operator, no-any-return]

    async def _stats(self, request: web.Request) -> web.Response:
        stats = self.service.stats().model_copy(
            update={"policy_revision": self.revision, "capture": self.capture, "lowered": self.lowered}
        )
        told = stats.model_copy(update={"drafters": tuple(map(self._with_shadow, stats.drafters))})
        # An engine of the version before shadows says nothing of them, not even null.
        unsaid: dict[str, Any] = {} if self.knows_shadows else {"drafters": {"__all__": {"shadow"}}}
        return web.Response(text=told.model_dump_json(by_alias=True, exclude=unsaid), content_type="application/json")

    def _with_shadow(self, drafter: wire.DrafterStats) -> wire.DrafterStats:
        return drafter.model_copy(update={"shadow": self.shadow if drafter.type is DrafterType.HEAD else None})

    async def _profile(self, request: web.Request) -> web.Response:
        self.profiles_served += 1
        return _json(self.service.profile)

    async def _progress(self, request: web.Request) -> web.Response:
        return _json(self.progress)

    async def _put_policy(self, request: web.Request) -> web.Response:
        offered = wire.PolicyTable.model_validate_json(await request.read())
        if offered.revision < self.revision:
            message = f"revision {offered.revision} is older than {self.revision}"
            return web.json_response({"error": {"message": message}}, status=409)
        self.pushes.append(offered)
        self.revision, self.table = offered.revision, offered.table
        self.lowered = self.lowered if self.lowered_by_push is None else self.lowered_by_push
        return _json(wire.PolicyStatus(revision=self.revision, table=self.table, lowered=self.lowered))

    async def _put_drafter(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        load = wire.DrafterLoad.model_validate_json(await request.read())
        self.loads.append((name, load))
        if self.refusal is not None:
            return web.json_response({"error": {"message": self.refusal}}, status=400)
        drafter = next(known for known in self.service.drafters if known.name == name)
        if self.knows_shadows and load.role is wire.DrafterRole.SHADOW:
            if self.shadow_failure is not None:
                status, error = self.shadow_failure
                return web.json_response({"error": {"message": "no shadow"} | error}, status=status)
            if self.shadow_refusal is not None:
                return web.json_response({"error": {"message": self.shadow_refusal}}, status=400)
            self._put_shadow(drafter.revision, load)
        elif self.failed_self_test is not None:
            drafter.state, drafter.reason = DrafterState.BROKEN, self.failed_self_test
        else:
            self._serve(drafter, load)
        answer = next(stats for stats in self.service.stats().drafters if stats.name == name)
        return _json(self._with_shadow(answer))

    def _put_shadow(self, incumbent: str | None, load: wire.DrafterLoad) -> None:
        if load.revision is None:
            self.shadow = None
            return
        self.reads.append(load.revision)
        self.shadow = wire.ShadowStats(
            state=DrafterState.ACTIVE,
            candidate=wire.ShadowScores(revision=load.revision),
            incumbent=None if incumbent is None else wire.ShadowScores(revision=incumbent),
        )

    def _serve(self, drafter: SimulatedDrafter, load: wire.DrafterLoad) -> None:
        if self.shadow is not None and self.shadow.candidate.revision == load.revision:
            self.shadow = None  # the second buffer becomes the first
        elif load.revision is not None:
            self.reads.append(load.revision)
        if drafter.revision != load.revision:
            drafter.count_anew()
        drafter.revision = load.revision
        drafter.state = DrafterState.EMPTY if load.revision is None else DrafterState.ACTIVE


def scored(shadow: wire.ShadowStats, pairs: Sequence[tuple[int, int]]) -> wire.ShadowStats:
    """The same shadow after these places too; without an incumbent, the second of each pair is nobody's."""
    if shadow.incumbent is None:
        squares, incumbent = 0, None
    else:
        squares = sum((ours - theirs) ** 2 for ours, theirs in pairs)
        incumbent = _counted(shadow.incumbent, [theirs for _, theirs in pairs])
    return shadow.model_copy(
        update={
            "sequence_steps": shadow.sequence_steps + len(pairs),
            "squared_differences": shadow.squared_differences + squares,
            "candidate": _counted(shadow.candidate, [ours for ours, _ in pairs]),
            "incumbent": incumbent,
        }
    )


def _counted(scores: wire.ShadowScores, counts: Sequence[int]) -> wire.ShadowScores:
    """By position, as an engine adds them up for drafts of four."""
    matched = [sum(count > position for count in counts) for position in range(4)]
    before = (*scores.matched, 0, 0, 0, 0)
    return scores.model_copy(update={"matched": tuple(a + b for a, b in zip(before, matched, strict=False))})


def _json(value: wire.WireModel) -> web.Response:
    return web.Response(text=value.model_dump_json(by_alias=True), content_type="application/json")
