"""Path 2: a decision. Scrape the engines, let the policy decide, write the DraftPolicy, push it, record who has it.

One tick reads as that sentence. Decides no draft length (bowsprit_policy.control does) and writes no status of a
SpeculativeModel (reconcile does, from `summaries`). State is in memory: a new leader begins from the stored table and
holds it until its own evidence is enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from bowsprit_operator import fleet
from bowsprit_operator.delivery import Delivery
from bowsprit_operator.fleet import Fleet, ScrapedPod
from bowsprit_operator.resources import labels, names
from bowsprit_operator.resources.draft_policy import DraftPolicy, DraftPolicyStatus, PodAcknowledgement
from bowsprit_operator.resources.kinds import DRAFT_POLICY
from bowsprit_operator.resources.speculative_model import DecisionEntry, SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.workloads import Pod
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import ModelKey, PodReport, Summaries
from bowsprit_operator.world.cluster import Cluster, ClusterError
from bowsprit_operator.world.engines import Engines, PodAddress
from bowsprit_policy import control
from bowsprit_policy.decision import Decision, DecisionKind
from bowsprit_policy.observation import ControlSettings, DrafterSpec
from bowsprit_policy.wire import DrafterType

FIELD_MANAGER = "bowsprit-control-loop"

logger = logging.getLogger(__name__)
decision_log = logging.getLogger("bowsprit.decisions")


class ControlLoop:
    """Call `tick` while leading, one at a time. A new term of leading takes a new one: estimates may be outdated."""

    def __init__(self, cluster: Cluster, engines: Engines, settings: OperatorSettings, summaries: Summaries) -> None:
        self._cluster = cluster
        self._settings = settings
        self._summaries = summaries
        self._fleet = Fleet(engines)
        self._delivery = Delivery(engines)
        self._states: dict[ModelKey, control.ControlState] = {}

    async def aclose(self) -> None:
        await self._delivery.aclose()

    async def tick(self, now: float) -> None:
        """Every model once. `now`: seconds since the epoch. Raises ClusterError when nothing can be read."""
        models = await self._cluster.read_all(SpeculativeModel)
        pods = await self._cluster.read_all(Pod, labels={labels.COMPONENT: labels.Component.ENGINE})
        policies = {(policy.namespace, policy.name): policy for policy in await self._cluster.read_all(DraftPolicy)}
        revisions = await self._cluster.read_all(SpeculatorRevision)
        living = [model for model in models if model.metadata.deletion_timestamp is None]
        self._forget_all_except(living, pods)
        await asyncio.gather(
            *(
                self._tick_model(
                    model,
                    addresses=_addresses(model, pods),
                    stored=policies.get((model.namespace, names.draft_policy(model.name))),
                    revisions=tuple(revision for revision in revisions if revision.namespace == model.namespace),
                    now=now,
                )
                for model in living
            )
        )

    async def _tick_model(
        self,
        model: SpeculativeModel,
        *,
        addresses: tuple[PodAddress, ...],
        stored: DraftPolicy | None,
        revisions: tuple[SpeculatorRevision, ...],
        now: float,
    ) -> None:
        key = key_of(model)
        try:
            scraped = await self._fleet.scrape(addresses)
            step = self._decide(key, model, scraped, stored, revisions, now)
            policy = await self._write(model, step, scraped, stored)
            acknowledged = await self._deliver(model, policy, scraped, now)
            self._report(key, scraped, step, acknowledged, now)
        except ClusterError as error:
            # The next tick begins from what is stored then; nothing half-done is remembered.
            logger.warning("SpeculativeModel %s/%s: %s", model.namespace, model.name, error)
        except Exception:
            # A fault that one model brings out must not end the ticks of all.
            logger.exception("SpeculativeModel %s/%s: this tick failed", model.namespace, model.name)

    def _decide(
        self,
        key: ModelKey,
        model: SpeculativeModel,
        scraped: tuple[ScrapedPod, ...],
        stored: DraftPolicy | None,
        revisions: tuple[SpeculatorRevision, ...],
        now: float,
    ) -> control.ControlStep:
        state = self._states.get(key)
        if state is None:
            self._summaries.restore(key, tuple(decisions_of(model.status.decisions)))
            state = control.begin(table=(stored.spec.table or None) if stored is not None else None)
        settings = control_settings(model, evaluated=_evaluated(stored, revisions))
        step = control.step(state, fleet.observation(scraped), settings, now)
        self._states[key] = step.state
        for decision in step.decisions:
            decision_log.info(decision.record)
        self._summaries.add_decisions(key, step.decisions)
        return step

    async def _write(
        self,
        model: SpeculativeModel,
        step: control.ControlStep,
        scraped: tuple[ScrapedPod, ...],
        stored: DraftPolicy | None,
    ) -> DraftPolicy | None:
        """The DraftPolicy in force afterwards. A pod with a newer revision than the stored one is outnumbered."""
        table = step.state.table
        if table is None:
            return stored
        newest_in_pods = max((pod.stats.policy_revision for pod in scraped if pod.stats is not None), default=0)
        if stored is not None and stored.spec.table == table and stored.spec.revision >= newest_in_pods:
            return stored
        manifest = {
            "metadata": {
                "name": names.draft_policy(model.name),
                "namespace": model.namespace,
                "labels": labels.on_child(model.name),
                "ownerReferences": [model.owner_reference()],
            },
            "spec": {
                "revision": 1 + max(newest_in_pods, 0 if stored is None else stored.spec.revision),
                "reason": step.reason.value,
                "message": step.message[:1024],
                "table": [row.model_dump(mode="json", by_alias=True, exclude_none=True) for row in table],
            },
        }
        return DraftPolicy.model_validate(await self._put(manifest, stored))

    async def _put(self, manifest: Mapping[str, Any], stored: DraftPolicy | None) -> dict[str, Any]:
        return await self._cluster.apply(
            DRAFT_POLICY,
            manifest,
            manager=FIELD_MANAGER,
            resource_version=None if stored is None else stored.metadata.resource_version,
        )

    async def _deliver(
        self, model: SpeculativeModel, policy: DraftPolicy | None, scraped: tuple[ScrapedPod, ...], now: float
    ) -> tuple[PodAcknowledgement, ...]:
        if policy is None:
            return ()
        heads = (drafter.name for drafter in model.spec.speculation.drafters if drafter.type is DrafterType.HEAD)
        acknowledged = await self._delivery.deliver(policy.spec, scraped, heads=heads, now=now)
        in_order = tuple(sorted(acknowledged, key=lambda pod: pod.uid))
        await self._cluster.apply_status(policy, DraftPolicyStatus(pods=in_order), manager=FIELD_MANAGER)
        return acknowledged

    def _report(
        self,
        key: ModelKey,
        scraped: tuple[ScrapedPod, ...],
        step: control.ControlStep,
        acknowledged: tuple[PodAcknowledgement, ...],
        now: float,
    ) -> None:
        said = {pod.uid: pod for pod in acknowledged}
        self._summaries.put(
            key,
            replace(
                self._summaries.of(key),
                scraped_at=now,
                speculation=step.summary,
                reason=step.reason.value,
                message=step.message,
                pods=tuple(_pod_report(pod, said.get(pod.address.uid)) for pod in scraped),
                observation=fleet.observation(scraped),
            ),
        )

    def _forget_all_except(self, models: Iterable[SpeculativeModel], pods: Iterable[Pod]) -> None:
        keys = {key_of(model) for model in models}
        self._states = {key: state for key, state in self._states.items() if key in keys}
        self._summaries.keep_only(keys)
        uids = {pod.metadata.uid for pod in pods if pod.metadata.uid is not None}
        self._fleet.forget_pods_except(uids)
        self._delivery.forget_pods_except(uids)


def key_of(model: SpeculativeModel) -> ModelKey:
    """How summaries and states are kept."""
    return ModelKey(namespace=model.namespace, name=model.name, uid=model.metadata.uid or "")


def control_settings(model: SpeculativeModel, *, evaluated: Mapping[str, tuple[float, ...]]) -> ControlSettings:
    """What the user set, as the policy takes it. `evaluated`: match per position of what drafters should serve."""
    speculation = model.spec.speculation
    fixed = speculation.fixed_draft_tokens
    return ControlSettings(
        drafters=tuple(
            DrafterSpec(name=drafter.name, type=drafter.type, evaluated=evaluated.get(drafter.name, ()))
            for drafter in speculation.drafters
        ),
        mode=speculation.mode,
        min_draft_tokens=speculation.draft_tokens.min,
        max_draft_tokens=speculation.effective_draft_tokens_max,
        **({} if fixed is None else {"fixed_draft_tokens": fixed}),
    )


def _evaluated(stored: DraftPolicy | None, revisions: Iterable[SpeculatorRevision]) -> dict[str, tuple[float, ...]]:
    """By drafter, what was measured of the revision that it should serve, before it served."""
    known = {revision.name: revision.spec.evaluation for revision in revisions}
    found = {}
    for entry in stored.spec.speculators if stored is not None else ():
        evaluation = known.get(entry.revision)
        if evaluation is not None:
            found[entry.drafter] = evaluation.recent.per_position
    return found


def _addresses(model: SpeculativeModel, pods: Iterable[Pod]) -> tuple[PodAddress, ...]:
    own = (
        pod for pod in pods if pod.namespace == model.namespace and pod.metadata.labels.get(labels.MODEL) == model.name
    )
    return tuple(address for pod in own if (address := fleet.address_of(pod)) is not None)


def _pod_report(pod: ScrapedPod, acknowledged: PodAcknowledgement | None) -> PodReport:
    return PodReport(
        name=pod.address.name,
        uid=pod.address.uid,
        failure=None if pod.failure is None else pod.failure.reason.value,
        message=(acknowledged.message if acknowledged is not None else None) or str(pod.failure or ""),
        model_digest=None if pod.stats is None else pod.stats.model_digest,
        drafters=() if pod.stats is None else pod.stats.drafters,
        lowered=() if pod.stats is None else pod.stats.lowered,
    )


def decisions_of(entries: Iterable[DecisionEntry]) -> Iterator[Decision]:
    """What a former leader left in status; the records are in its log. A newer version may know kinds of its own."""
    for entry in entries:
        if entry.kind in set(DecisionKind):
            yield Decision(
                at=entry.time.timestamp(),
                kind=DecisionKind(entry.kind),
                reason=entry.reason,
                message=entry.message,
                before=entry.before or "",
                after=entry.after or "",
                record="",
            )
