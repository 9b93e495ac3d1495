"""Carrying out one SpeculatorTraining: its number, its Job, its progress, and what its result becomes.

Each call does what is missing and may be cut short after any write. A run that fails leaves the incumbent as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from bowsprit_operator import fleet, run_result
from bowsprit_operator.learning import job, outcome, runs, verdict
from bowsprit_operator.resources import names
from bowsprit_operator.resources.happenings import FaultEvent, Happening
from bowsprit_operator.resources.kinds import JOB
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import (
    RunProgress,
    SpeculatorTraining,
    SpeculatorTrainingStatus,
    TrainingOutcome,
)
from bowsprit_operator.resources.workloads import Job, Pod
from bowsprit_operator.run_result import Run, conditions_of_run
from bowsprit_operator.serving.platform import Platform
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.world.cluster import Cluster, ConflictError, RefusedError
from bowsprit_operator.world.engines import EngineCallError, Engines
from bowsprit_operator.world.events import Events
from bowsprit_policy.decision import Decision
from bowsprit_policy.wire import TrainingPhase, TrainingResult

KEEP_JOBS_SECONDS = 3600.0  # a finished Job and its logs, once its result is recorded

logger = logging.getLogger(__name__)


class TrainingRuns:
    """Carries runs on, one write after the other."""

    def __init__(
        self, cluster: Cluster, engines: Engines, events: Events, settings: OperatorSettings, platform: Platform
    ) -> None:
        self._cluster = cluster
        self._events = events
        self._engines = engines
        self._settings = settings
        self._platform = platform

    async def carry_on(
        self,
        training: SpeculatorTraining,
        *,
        model: SpeculativeModel,
        trainings: Iterable[SpeculatorTraining],
        revisions: Iterable[SpeculatorRevision],
        incumbent: SpeculatorRevision | None,
        model_digest: str | None,
        now: float,
    ) -> tuple[Decision, ...]:
        """What is missing to end this run. Returns the decisions taken (a rejection)."""
        run = Run(training=training, model=model, incumbent=incumbent, model_digest=model_digest, now=now)
        refusal = runs.refusal(training, model)
        if refusal is not None:
            await self._fail(run, reason=refusal.reason, message=refusal.message)
            return ()
        if training.status.revision is None:
            revision = runs.revision_name(training, trainings=trainings, revisions=revisions)
            await self._begin(run, revision=revision)
            return ()
        stored = await self._cluster.read(Job, model.namespace, training.status.revision)
        if stored is None:
            await self._create_job(run, revision=training.status.revision)
            return ()
        if stored.metadata.controller_uid != training.metadata.uid:
            message = f"Job {stored.name} exists and belongs to somebody else"
            await self._fail(run, reason=runs.RunRefusal.JOB_NAME_TAKEN, message=message)
            return ()
        pods = await self._pods_of(stored)
        end = outcome.of_run(revision=training.status.revision, job=stored, pods=pods)
        match end:
            case None:
                await self._report_progress(run, pods)
                return ()
            case outcome.Failed():
                await self._fail(run, reason=end.reason, message=end.message)
                return ()
            case outcome.Evaluated():
                return await self._conclude(run, end.result, revision=training.status.revision)

    async def forget_old_jobs(self, trainings: Iterable[SpeculatorTraining], now: float) -> None:
        """Delete the Jobs of runs whose result was recorded an hour ago."""
        for training in trainings:
            ended, name = training.status.completion_time, training.status.job_name
            if ended is None or name is None or now - ended.timestamp() < KEEP_JOBS_SECONDS:
                continue
            stored = await self._cluster.read(Job, training.namespace, name)
            if stored is not None and stored.metadata.controller_uid == training.metadata.uid:
                await self._cluster.delete(JOB, stored.namespace, stored.name, uid=stored.metadata.uid)

    async def _begin(self, run: Run, *, revision: str) -> None:
        """The name is stored before anything bears it: a restarted operator goes on with the same one."""
        status = SpeculatorTrainingStatus(
            observed_generation=run.training.metadata.generation,
            conditions=conditions_of_run(
                run, complete=False, failed=False, reason="Running", message="the run has begun"
            ),
            job_name=revision,
            image=runs.image(run.model, self._platform),
            revision=revision,
            outcome=TrainingOutcome.RUNNING,
            start_time=verdict.moment(run.now),
            progress=RunProgress(phase=TrainingPhase.LOADING),
        )
        await self._write(run, status)

    async def _create_job(self, run: Run, *, revision: str) -> None:
        training, storage = run.model.spec.training, run.model.spec.storage
        if training is None or storage is None:
            return  # refused above
        plan = job.TrainingPlan(
            model=run.model,
            training=run.training,
            settings=training,
            storage=storage,
            revision=revision,
            image=run.training.status.image or runs.image(run.model, self._platform),
            parent=run.incumbent,
            threads=self._settings.training_threads,
        )
        try:
            await self._cluster.create(JOB, job.build(plan, self._platform), manager=names.LEARNING_LOOP)
        except ConflictError:
            return  # it is there already: the next tick sees whose it is
        except RefusedError as error:
            await self._fail(run, reason="JobRefused", message=str(error))

    async def _pods_of(self, stored: Job) -> tuple[Pod, ...]:
        return await self._cluster.read_all(Pod, stored.namespace, labels={"job-name": stored.name})

    async def _report_progress(self, run: Run, pods: tuple[Pod, ...]) -> None:
        for pod in pods:
            address = fleet.address_of(pod)
            if address is None:
                continue
            try:
                progress = await self._engines.progress(address)
            except EngineCallError as error:
                logger.info("training %s: %s", run.training.name, error)
                continue
            told = RunProgress.model_validate(progress.model_dump(by_alias=True))
            status = run.training.status.model_copy(update={"progress": told})
            await self._write(run, status)

    async def _fail(self, run: Run, *, reason: str, message: str) -> None:
        incumbent = "untrained drafters" if run.incumbent is None else run.incumbent.name
        told = f"{message}; {incumbent} still serve" + ("" if run.incumbent is None else "s")
        logger.warning("training %s failed (%s): %s", run.training.name, reason, told)
        status = run.training.status.model_copy(
            update={
                "observed_generation": run.training.metadata.generation,
                "conditions": conditions_of_run(run, complete=False, failed=True, reason=reason, message=told),
                "outcome": TrainingOutcome.FAILED,
                "completion_time": verdict.moment(run.now),
            }
        )
        await self._write(run, status)
        failed = Happening(
            reason=FaultEvent.TRAINING_FAILED,
            action=reason,
            note=f"{run.training.name}: {reason}: {told}",
            is_warning=True,
        )
        await self._events.record(run.model, failed, related=run.training)

    async def _conclude(self, run: Run, result: TrainingResult, *, revision: str) -> tuple[Decision, ...]:
        number = names.revision_number(revision, model_name=run.model.name, drafter=run.training.spec.drafter)
        if number is None:
            message = f"status.revision {revision} is no revision of {run.model.name} and {run.training.spec.drafter}"
            await self._fail(run, reason="RevisionNameWrong", message=message)
            return ()
        return await run_result.conclude(self._cluster, run, result, name=revision, number=number)

    async def _write(self, run: Run, status: SpeculatorTrainingStatus) -> None:
        await self._cluster.apply_status(run.training, status, manager=names.LEARNING_LOOP)
