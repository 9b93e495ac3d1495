"""`make demo`: a real Kubernetes, a SpeculativeModel, real traffic, and what adapted: a table and a picture.

Three phases of the same stream of questions: without speculation, with untrained drafters, and with what was trained
meanwhile on that traffic. Each of the two is compared with plain decoding while it is what the table is about: the
untrained ones before a head is, since the table beside one may give them less. Run again, it finds what is there and
only measures. It reports what it measured, also when the trained head was rejected or speculation doesn't pay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from cluster import build
from cluster.driver import Cluster
from cluster.errors import ClusterError
from demo_picture import draw
from demo_record import LOOK_UP, Mode, Record, Sample, may_draft
from demo_table import comparison_table
from installation import ROOT, install_operator, prepare_namespace, sample
from kube import Json, condition, eventually, is_true
from served_model import ServedModel
from traffic import Answer, Prompt, ask, kept_up
from training_runs import narrow, runs_of

NAMESPACE = "demo"
OUT = ROOT / "out"
CONCURRENCY = 4
NUM_PLAIN = 60
NUM_LEARNT_FROM = 440
# Untrained drafters are compared after so many, before there are the 400 requests that a first run waits for.
NUM_BEFORE_COMPARING = 240
NUM_AFTER = 60
NUM_COMPARED = 32
NUM_QUESTIONS = NUM_LEARNT_FROM + NUM_AFTER + NUM_COMPARED
TRAINING_SECONDS = 900.0
SHADOW_SECONDS = 20
PAUSE_SECONDS = 2.0
ADMISSION_SECONDS = 75.0
DRAFTER = {Mode.PLAIN: None, Mode.UNTRAINED: LOOK_UP, Mode.TRAINED: None}
AWAITED = {Mode.UNTRAINED: LOOK_UP, Mode.TRAINED: "head"}

console = Console(width=None if sys.stdout.isatty() else 110)


def bring_up() -> ServedModel:
    """Cluster, images, operator, and the CPU sample, Ready."""
    cluster = Cluster()
    console.rule("1  a Kubernetes of its own, and Bowsprit in it")
    cluster.up()
    install_operator(cluster)
    kube = prepare_namespace(cluster, NAMESPACE)
    console.rule("2  kubectl apply: manifests/samples/cpu-smollm2.yaml, Ready when its engine is")
    # The sample waits for 50k tokens of traffic; a demo for as many as a gate of 200 held-out requests needs.
    trigger = {"acceptanceDrop": "5%", "minTokens": "20k"}
    # The sample leaves a candidate ten minutes in the shadow, which a demo with one user's traffic hasn't.
    kube.apply(sample(NAMESPACE, training__trigger=trigger, promotion__shadow=f"{SHADOW_SECONDS}s"))
    return ServedModel.when_ready(kube, "smollm2")


class Traffic:
    """Sends questions in a mode, records each answer, and notes the controller's decisions as they appear."""

    def __init__(self, model: ServedModel, record: Record, progress: Progress) -> None:
        self.model = model
        self.record = record
        self.progress = progress

    def _task(self, name: str, *, total: int) -> TaskID:
        """A bar of the progress display; where that can't move (a log), a line."""
        if not console.is_terminal:
            console.print(f"  {name} …")
        return self.progress.add_task(name, total=total)

    async def phase(self, name: str, mode: Mode, prompts: list[Prompt]) -> None:
        """All of them, CONCURRENCY at a time."""
        task = self._task(name, total=len(prompts))
        waiting = iter(prompts)

        async def worker() -> None:
            for prompt in waiting:
                await self.ask(name, mode, prompt)
                self.progress.advance(task)

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
        self.record.note_decisions(self.model.resource)

    async def ask(self, phase: str, mode: Mode, prompt: Prompt, *, turn: int = 0, is_captured: bool = True) -> Answer:
        """As a tenant that is asking this for the first time: looking up its own answer is no drafter's merit."""
        async with self.model.client() as client:
            answer = await ask(
                client,
                self.model.name,
                prompt,
                is_speculative=mode is not Mode.PLAIN,
                drafter=DRAFTER[mode],
                tenant=f"{phase}, {mode}, {turn}",
                is_captured=is_captured,
            )
        self.record.samples.append(Sample.of(answer, phase=phase, mode=mode))
        return answer

    async def until_trained(self, prompts: list[Prompt]) -> Json | None:
        """A little traffic goes on until the run and its revision's shadow have ended; the run, None if none began."""
        task = self._task("training on that traffic, serving on", total=1)

        async def request(number: int) -> Answer:
            # Between two questions people read: two busy cores would leave the run next to nothing.
            await asyncio.sleep(PAUSE_SECONDS)
            prompt = prompts[number % len(prompts)].at(temperature=0.8, seed=number)
            return await self.ask("while training", Mode.UNTRAINED, prompt, turn=number // len(prompts))

        def ended() -> Json | None:
            run = next(iter(runs_of(self.model)), None)
            if run is None:
                return None
            told = run.get("status", {}).get("progress", {})
            steps = f" {told['step']}/{told['steps']}" if told.get("steps") else ""
            is_evaluated = run.get("status", {}).get("outcome") == "Evaluated"
            phase = "in the shadow" if is_evaluated else f"training: {told.get('phase', 'Starting')}{steps}"
            self.progress.update(task, description=f"{phase}, serving on")
            self.record.note_decisions(self.model.resource)
            has_ended = is_true(run, "Complete") or is_true(run, "Failed")
            return run if has_ended and not is_evaluated else None

        async with kept_up(request, concurrency=1):
            try:
                run = await eventually(ended, seconds=TRAINING_SECONDS, what="the end of a training run")
            except TimeoutError:
                return None
        self.progress.advance(task)
        return run

    async def until_drafting(self, mode: Mode, prompts: list[Prompt], *, phase: str) -> None:
        """Single requests until the table lets what the mode is about draft; it may find that this doesn't pay."""
        task = self._task(f"until the table has seen the {AWAITED[mode]}", total=1)

        async def request(number: int) -> Answer:
            prompt, turn = prompts[number % len(prompts)], 1 + number // len(prompts)
            return await self.ask(phase, mode, prompt, turn=turn, is_captured=False)

        def is_drafting() -> bool:
            self.record.note_decisions(self.model.resource)
            return may_draft(AWAITED[mode], self.policy)

        if not is_drafting():
            async with kept_up(request, concurrency=1):
                with contextlib.suppress(TimeoutError):
                    await eventually(is_drafting, seconds=ADMISSION_SECONDS, what=f"a table with {AWAITED[mode]}")
        self.progress.advance(task)

    async def compare(self, mode: Mode, prompts: list[Prompt]) -> None:
        """Each question in this mode and in plain decoding, one request at a time, in turn: neighbours in time.

        None is captured: what a head is judged on isn't what it was trained on.
        """
        task = self._task(f"{mode.comparison}, one request at a time", total=2 * len(prompts))
        self.record.note_caps(mode, self.policy)
        for index, prompt in enumerate(prompts):
            for asked in (Mode.PLAIN, mode) if index % 2 == 0 else (mode, Mode.PLAIN):
                answer = await self.ask(mode.comparison, asked, prompt, is_captured=False)
                self.record.texts.setdefault(index, set()).add(answer.text)
                self.progress.advance(task)
        self.record.note_caps(mode, self.policy)

    @property
    def policy(self) -> Json | None:
        return self.model.kube.get("dpol", self.model.name)


async def run(model: ServedModel) -> Record:
    """The phases, with their progress shown."""
    record = Record(began_at=time.time())
    shown = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*shown, console=console) as progress:
        await follow(Traffic(model, record, progress), narrow(NUM_QUESTIONS))
    record.note_decisions(model.resource)
    return record


async def follow(traffic: Traffic, questions: list[Prompt]) -> None:
    """The phases. What was trained in an earlier run of the demo isn't trained again."""
    model, record = traffic.model, traffic.record
    learnt_from, after = questions[:NUM_LEARNT_FROM], questions[NUM_LEARNT_FROM:][:NUM_AFTER]
    compared = questions[-NUM_COMPARED:]
    await traffic.phase("without speculation", Mode.PLAIN, learnt_from[:NUM_PLAIN])
    complete = (run for run in runs_of(model) if is_true(run, "Complete"))
    earlier = next((run for run in complete if run["status"].get("outcome") != "Evaluated"), None)
    name = "untrained drafters"
    await traffic.phase(name, Mode.UNTRAINED, learnt_from[: NUM_BEFORE_COMPARING if earlier is None else NUM_AFTER])
    await traffic.until_drafting(Mode.UNTRAINED, after, phase=name)
    await traffic.compare(Mode.UNTRAINED, compared)
    if earlier is None:
        await traffic.phase("untrained drafters again", Mode.UNTRAINED, learnt_from[NUM_BEFORE_COMPARING:])
    training = earlier or await traffic.until_trained(after)
    revision = None if training is None else model.kube.get("srev", training["status"].get("revision", ""))
    record.note_training(training, revision)
    promoted = record.revision
    if promoted is not None:
        name = "with the trained head"
        await eventually(lambda: model.serves(promoted), seconds=90, what=f"{promoted} in the pod")
        await traffic.phase(name, Mode.TRAINED, after)
        await traffic.until_drafting(Mode.TRAINED, after, phase=name)
        await traffic.compare(Mode.TRAINED, compared)


def tell(model: ServedModel, record: Record) -> None:
    """The table, the picture, and how to go on from here."""
    console.rule("3  what it came to")
    console.print(comparison_table(record))
    console.print(record.verdict, soft_wrap=True)
    console.print(f"The same text in every mode: {record.num_same_text} of {len(record.texts)} questions.")
    OUT.mkdir(exist_ok=True)
    (OUT / "demo.json").write_text(json.dumps(record.as_json(), indent=1))
    picture = draw(record, OUT / "demo.png")
    ready = condition(model.resource, "Ready")
    console.print(f"\nPicture   {_short(picture)}   (figures: {_short(OUT / 'demo.json')})")
    console.print(f"Status    {ready.get('reason')}: {ready.get('message')}", soft_wrap=True)
    console.print("\n[bold]Look around[/bold]")
    console.print(f"  export KUBECONFIG={model.kube.cluster.kubeconfig}", soft_wrap=True)
    console.print(f"  export PATH={build.KUBERNETES.output}:$PATH", soft_wrap=True)
    console.print(f"  kubectl -n {NAMESPACE} get smodel,dpol,strain,srev")
    console.print(f"  kubectl -n {NAMESPACE} get smodel {model.name} -o yaml     # decisions with their reasons")
    console.print(f"  OpenAI URL: {model.url}/v1   (model {model.name!r}, any key)")
    console.print("[bold]Clean up[/bold]\n  make cluster-down")


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def main() -> int:
    started = time.monotonic()
    try:
        model = bring_up()
        tell(model, asyncio.run(run(model)))
    except (ClusterError, TimeoutError) as error:
        console.print(f"[bold red]error[/bold red] {error}", soft_wrap=True)
        return 1
    console.print(f"\n{time.monotonic() - started:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
