"""Path 1: a resource. Read what is there, plan one safe step, carry it out, write the status.

The only writer of SpeculativeModel.status, and nothing here writes its spec or labels; what a new status tells goes out
as Events. Decides when to look again;
what to do is decided in serving/. Any error but a refusal is raised: the work queue tries again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from typing import NamedTuple

from bowsprit_operator.metrics import OperatorMetrics
from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.conditions import ModelReason
from bowsprit_operator.resources.draft_policy import DraftPolicy
from bowsprit_operator.resources.kinds import Kind
from bowsprit_operator.resources.speculative_model import SpeculativeModel, SpeculativeModelStatus
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.serving import happenings, status
from bowsprit_operator.serving.observed import Observed
from bowsprit_operator.serving.plan import Blocked, Plan, child_names, next_step
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import ModelKey, Summaries
from bowsprit_operator.world.cluster import Cluster, RefusedError
from bowsprit_operator.world.events import Events

_KEYS_FRESH_SECONDS = 300.0  # the cluster's signing keys are read again after this

_BLOCKED_SECONDS = 30.0  # what blocks may be an object that isn't watched

logger = logging.getLogger(__name__)


class ObjectKey(NamedTuple):
    """One SpeculativeModel as watches name it: a re-created one has the same key."""

    namespace: str
    name: str


class Reconciler:
    """One pass per call, for one model."""

    def __init__(
        self,
        cluster: Cluster,
        events: Events,
        settings: OperatorSettings,
        summaries: Summaries,
        metrics: OperatorMetrics,
    ) -> None:
        self._cluster = cluster
        self._events = events
        self._settings = settings
        self._summaries = summaries
        self._metrics = metrics
        self._platform: tuple[float, Platform] | None = None
        self._figures_at: dict[ObjectKey, float] = {}

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Returns the seconds after which to look again, None when the model is gone."""
        with self._metrics.reconcile_seconds.time():
            observed = await self.observe(key)
            if observed is None:
                self._figures_at.pop(key, None)
                self._metrics.reconciles.labels(result="gone").inc()
                return None
            platform = await self.platform()
            plan = next_step(observed, platform)
            plan = await self._carry_out(key, plan)
            await self._write_status(key, observed, plan, platform)
        result = "blocked" if plan.blocked else "applied" if plan.actions else "unchanged"
        self._metrics.reconciles.labels(result=result).inc()
        if plan.actions:
            return 0.0  # the next step
        pause = min(self._settings.resync_seconds, _BLOCKED_SECONDS) if plan.blocked else self._settings.resync_seconds
        return pause * random.uniform(0.9, 1.1)

    async def observe(self, key: ObjectKey) -> Observed | None:
        """Everything as it is stored now; None when there is no such model."""
        model = await self._cluster.read(SpeculativeModel, key.namespace, key.name)
        if model is None:
            return None
        children = await asyncio.gather(
            *(self._child(kind, key.namespace, name) for kind, name in child_names(key.name).items())
        )
        engine_labels = labels.of_component(key.name, labels.Component.ENGINE)
        pods, policy, revisions, trainings = await asyncio.gather(
            self._cluster.read_all(Pod, key.namespace, labels=engine_labels),
            self._cluster.read(DraftPolicy, key.namespace, names.draft_policy(key.name)),
            self._cluster.read_all(SpeculatorRevision, key.namespace),
            self._cluster.read_all(SpeculatorTraining, key.namespace),
        )
        return Observed(
            model=model,
            children={kind: stored for kind, stored in children if stored is not None},
            pods=pods,
            policy=policy,
            revisions=tuple(revision for revision in revisions if revision.spec.model_name == key.name),
            trainings=tuple(training for training in trainings if training.spec.model_name == key.name),
        )

    async def platform(self) -> Platform:
        """What the operator and the cluster bring; the cluster's keys are read again every few minutes."""
        now = time.monotonic()
        if self._platform is None or now - self._platform[0] > _KEYS_FRESH_SECONDS:
            keys = await self._cluster.signing_keys()
            platform = Platform(
                engine_image=self._settings.engine_image,
                operator_namespace=self._settings.namespace,
                subject=self._settings.engine_subject,
                issuer=keys.issuer,
                jwks=keys.jwks,
                progress_deadline_seconds=self._settings.progress_deadline_seconds,
            )
            self._platform = (now, platform)
        return self._platform[1]

    async def _child(self, kind: Kind, namespace: str, name: str) -> tuple[Kind, dict[str, object] | None]:
        return kind, await self._cluster.get(kind, namespace, name)

    async def _carry_out(self, key: ObjectKey, plan: Plan) -> Plan:
        """The plan as it turned out: blocked, if the API server refuses what the spec asks for."""
        for action in plan.actions:
            logger.info("%s/%s: %s", key.namespace, key.name, action.reason)
            try:
                await self._cluster.carry_out(action)
            except RefusedError as error:
                logger.warning("%s/%s: refused: %s", key.namespace, key.name, error)
                return Plan(blocked=Blocked(reason=ModelReason.SPEC_REFUSED, message=str(error)))
        return plan

    async def _write_status(self, key: ObjectKey, observed: Observed, plan: Plan, platform: Platform) -> None:
        model = observed.model
        summary = self._summaries.of(ModelKey(namespace=key.namespace, name=key.name, uid=model.metadata.uid or ""))
        written_at = self._figures_at.get(key)
        is_due = written_at is None or time.monotonic() - written_at >= self._settings.figures_seconds
        wanted = status.compose(observed, plan, platform, summary, now=datetime.now(UTC), figures_are_due=is_due)
        if await self._cluster.apply_status(model, wanted):
            self._count_decisions(model.status, wanted)
            for happening in happenings.of_change(model.status, wanted):
                await self._events.record(model, happening)
            if wanted.speculation != model.status.speculation:
                self._figures_at[key] = time.monotonic()

    def _count_decisions(self, before: SpeculativeModelStatus, after: SpeculativeModelStatus) -> None:
        for entry in after.decisions:
            if entry not in before.decisions:
                self._metrics.decisions.labels(kind=entry.kind, reason=entry.reason).inc()
