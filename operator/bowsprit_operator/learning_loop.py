"""Learning: traffic that is worth it becomes a run, a run a verdict, a verdict what the pods serve.

One tick looks at everything that is stored and does what is missing, so that it may be killed between any two writes.
Decides neither whether to train, nor whether a candidate is good, nor which revision serves (bowsprit_policy does).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bowsprit_operator import run_result, shadow_stage
from bowsprit_operator.control_loop import FIELD_MANAGER as CONTROL_LOOP
from bowsprit_operator.control_loop import key_of
from bowsprit_operator.learning import desired, runs, verdict
from bowsprit_operator.resources import conditions, labels, names
from bowsprit_operator.resources.conditions import RevisionCondition
from bowsprit_operator.resources.draft_policy import DesiredSpeculator, DraftPolicy
from bowsprit_operator.resources.kinds import DRAFT_POLICY, SPECULATOR_TRAINING
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import ModelKey, Summaries
from bowsprit_operator.training_run import TrainingRuns
from bowsprit_operator.world.cluster import Cluster, ClusterError
from bowsprit_operator.world.engines import Engines
from bowsprit_operator.world.events import Events
from bowsprit_policy import learning
from bowsprit_policy.decision import Decision, TableReason

logger = logging.getLogger(__name__)
decision_log = logging.getLogger("bowsprit.decisions")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """What is stored about one model's learning."""

    key: ModelKey
    model: SpeculativeModel
    policy: DraftPolicy | None
    trainings: tuple[SpeculatorTraining, ...]
    revisions: tuple[SpeculatorRevision, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """The revisions that the DraftPolicy names from this tick on, by drafter."""

    serving: Mapping[str, str]
    candidates: Mapping[str, str]


class LearningLoop:
    """Call `tick` while leading, after the control loop's. A new term of leading takes a new one."""

    def __init__(
        self,
        cluster: Cluster,
        engines: Engines,
        events: Events,
        settings: OperatorSettings,
        summaries: Summaries,
        platform: Platform,
    ) -> None:
        self._cluster = cluster
        self._summaries = summaries
        self._platform = platform
        self._runs = TrainingRuns(cluster, engines, events, settings, platform)
        self._states: dict[ModelKey, learning.LearningState] = {}

    async def tick(self, now: float) -> None:
        """Every model once. `now`: seconds since the epoch. Raises ClusterError when nothing can be read."""
        models = await self._cluster.read_all(SpeculativeModel)
        policies = await self._cluster.read_all(DraftPolicy)
        trainings = await self._cluster.read_all(SpeculatorTraining)
        revisions = await self._cluster.read_all(SpeculatorRevision)
        found = [
            _learned(model, policies, trainings, revisions)
            for model in models
            if model.metadata.deletion_timestamp is None
        ]
        keys = {learned.key for learned in found}
        self._states = {key: state for key, state in self._states.items() if key in keys}
        await asyncio.gather(*(self._tick_model(learned, now) for learned in found))

    async def _tick_model(self, learned: _Learned, now: float) -> None:
        try:
            named = await self._serve_what_is_promoted(learned, now)
            await self._carry_on(learned, named, now)
            await self._start_if_worth_it(learned, named, now)
        except ClusterError as error:
            # The next tick looks at what is stored then and does what is missing.
            logger.warning("SpeculativeModel %s/%s: %s", learned.key.namespace, learned.key.name, error)
        except Exception:
            # A fault that one model brings out must not end the ticks of all.
            logger.exception("SpeculativeModel %s/%s: this tick failed", learned.key.namespace, learned.key.name)

    async def _serve_what_is_promoted(self, learned: _Learned, now: float) -> _Named:
        policy, summary = learned.policy, self._summaries.of(learned.key)
        judged = await shadow_stage.judge(
            self._cluster,
            learned.model,
            policy=policy,
            revisions=learned.revisions,
            # While no pod answers, what comes after a verdict can't be chosen.
            observation=None if summary.model_digest is None else summary.observation,
            now=now,
        )
        self._record(learned.key, judged.decisions)
        choices = desired.choices(
            learned.model,
            stored=None if policy is None else policy.spec,
            revisions=judged.revisions,
            model_digest=summary.model_digest,
            now=now,
        )
        serving = tuple(choice.speculator for choice in choices if choice.speculator is not None)
        candidates = tuple(choice.candidate for choice in choices if choice.candidate is not None)
        before = () if policy is None else policy.spec.candidates
        if (serving, candidates) != (() if policy is None else policy.spec.speculators, before):
            await self._write_speculators(learned.model, policy, serving, candidates)
            self._record(learned.key, (choice.decision for choice in choices))
        revisions = await shadow_stage.mark(
            self._cluster, learned.model, choices, judged.revisions, before=before, now=now
        )
        await self._say_what_was_promoted(choices, revisions, now)
        await run_result.follow(self._cluster, learned.trainings, revisions)
        return _Named(
            serving={speculator.drafter: speculator.revision for speculator in serving},
            candidates={candidate.drafter: candidate.revision for candidate in candidates},
        )

    async def _say_what_was_promoted(
        self, choices: Iterable[desired.Choice], revisions: Iterable[SpeculatorRevision], now: float
    ) -> None:
        chosen = {choice.speculator.revision: choice for choice in choices if choice.speculator is not None}
        for revision in revisions:
            found = revision.status.conditions
            if revision.name in chosen and not conditions.is_true(found, RevisionCondition.PROMOTED) and found:
                choice = chosen[revision.name]
                status = verdict.promoted(
                    revision, reason=choice.reason, message=choice.message, now=verdict.moment(now)
                )
                await self._cluster.apply_status(revision, status, manager=names.LEARNING_LOOP)

    async def _write_speculators(
        self,
        model: SpeculativeModel,
        policy: DraftPolicy | None,
        serving: tuple[DesiredSpeculator, ...],
        candidates: tuple[DesiredSpeculator, ...],
    ) -> None:
        """Into the stored DraftPolicy; else into a first one without a table, so that pods keep their own."""
        metadata = {"name": names.draft_policy(model.name), "namespace": model.namespace}
        version = None if policy is None else policy.metadata.resource_version
        if policy is None:
            owned = {"labels": labels.on_child(model.name), "ownerReferences": [model.owner_reference()]}
            # These are the control loop's fields, which it fills with its first table.
            first = {"metadata": metadata | owned, "spec": {"revision": 1, "reason": TableReason.NO_PROFILE.value}}
            await self._cluster.apply(DRAFT_POLICY, first, manager=CONTROL_LOOP)
        wanted = {
            "speculators": [speculator.manifest() for speculator in serving],
            "candidates": [speculator.manifest() for speculator in candidates],
        }
        await self._cluster.apply(
            DRAFT_POLICY,
            {"metadata": metadata, "spec": wanted},
            manager=names.LEARNING_LOOP,
            resource_version=version,
        )

    async def _carry_on(self, learned: _Learned, named: _Named, now: float) -> None:
        await self._runs.forget_old_jobs(learned.trainings, now)
        training = runs.current(learned.trainings)
        if training is None:
            return
        serving = named.serving.get(training.spec.drafter)
        incumbent = next((revision for revision in learned.revisions if revision.name == serving), None)
        decisions = await self._runs.carry_on(
            training,
            model=learned.model,
            trainings=learned.trainings,
            revisions=learned.revisions,
            incumbent=incumbent,
            model_digest=self._summaries.of(learned.key).model_digest,
            now=now,
        )
        self._record(learned.key, decisions)

    async def _start_if_worth_it(self, learned: _Learned, named: _Named, now: float) -> None:
        settings = runs.settings(learned.model)
        observation = self._summaries.of(learned.key).observation
        if settings is None or observation is None:
            return
        step = learning.step(
            self._states.get(learned.key) or learning.begin(),
            observation,
            settings,
            now,
            runs=runs.past(learned.trainings),
            serving_revision=named.serving.get(settings.drafter),
            candidate=named.candidates.get(settings.drafter),
            image_refusal=runs.image_refusal(learned.trainings, wanted=runs.image(learned.model, self._platform)),
        )
        if step.start is not None:
            number = runs.next_number(
                model_name=learned.model.name,
                drafter=settings.drafter,
                trainings=learned.trainings,
                revisions=learned.revisions,
            )
            name = names.training(learned.model.name, settings.drafter, number)
            manifest = runs.manifest(
                learned.model, name=name, drafter=settings.drafter, start=step.start, message=step.message
            )
            await self._cluster.create(SPECULATOR_TRAINING, manifest, manager=names.LEARNING_LOOP)
            self._record(learned.key, step.decisions)
        # Only now: a start that couldn't be written is decided again.
        self._states[learned.key] = step.state
        summary = self._summaries.of(learned.key)
        self._summaries.put(
            learned.key, replace(summary, learning_reason=step.reason.value, learning_message=step.message)
        )

    def _record(self, key: ModelKey, decisions: Iterable[Decision | None]) -> None:
        taken = tuple(decision for decision in decisions if decision is not None)
        for decision in taken:
            decision_log.info(decision.record)
        self._summaries.add_decisions(key, taken)


def _learned(
    model: SpeculativeModel,
    policies: Iterable[DraftPolicy],
    trainings: Iterable[SpeculatorTraining],
    revisions: Iterable[SpeculatorRevision],
) -> _Learned:
    namespace = model.namespace
    wanted = names.draft_policy(model.name)
    return _Learned(
        key=key_of(model),
        model=model,
        policy=next((policy for policy in policies if (policy.namespace, policy.name) == (namespace, wanted)), None),
        trainings=tuple(
            training
            for training in trainings
            if training.namespace == namespace
            and training.spec.model_name == model.name
            and training.metadata.controller_uid in (None, model.metadata.uid)
        ),
        revisions=tuple(revision for revision in revisions if revision.namespace == namespace),
    )
