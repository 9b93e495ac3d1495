"""The pool with a trained head against its members: is it the best of them for each request, and for all streams alike?

    PYTHONPATH=engine python -m bench.head_mixture --model MODEL --folder ANSWERS --traffic TRAFFIC --head RUN
        --profile PROFILE --batch 1

`ANSWERS` is the folder of bench.recorded_answers, `TRAFFIC` that of bench.head_traffic, `RUN` the name of one of its
results. Decides what judges: of chat and tools the traffic's held-out questions (the other recording's were asked in
training), of recurring, editing and noise the judged answers. Earlier answers only teach, so the pool begins without a
record of anybody. The oracle is the best single drafter of each request in hindsight: of E, the one with the fewest
steps; of goodput, the cheapest, whose seconds at more than one request depend on who runs beside it. A head's call is
priced as measured on this machine where a profile of it is given, and on the card by the weights that it reads; look-up
and the pool take this machine's processor time on both, since a card's host runs them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import harmonic_mean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench import card_times, head_designs
from bench.drafter_streams import streams
from bench.drafter_tournament import profiled
from bench.head_judging import Drafted, DraftSeconds, PricedHead, draft_all
from bench.head_recurrent import RecurrentDesign
from bench.head_states import LONGEST, Document
from bench.head_table import arranged
from bench.head_traffic import recorded
from bench.head_traffic import stream as traffic_stream
from bench.head_weights import weights_read
from bench.priced_replay import HEAD_CAP, Bill, look_up, plain_seconds, replayed
from bench.recorded_answers import STREAM_SEED, Answer, grammar_compiler, read
from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.model_settings import ModelSettings
from bowsprit_engine.models import LoadedModel
from bowsprit_engine.models.checkpoint import tensor_shapes
from bowsprit_engine.server.assembly import load
from bowsprit_engine.server.structured import json_source
from bowsprit_engine.speculation.replay import Recording, StepSeconds
from bowsprit_engine.training.data import TokenSequence
from bowsprit_engine.training.features import StateReader
from bowsprit_engine.training.head import RecurrentHead

HEAD_CALL, HEAD_TOKEN = 0.035, 0.0065  # of a plain step, one native call and each token: 0.061 for 4, 0.087 for 8
HEAD_SEQUENCE = 0.03  # of that again, each further sequence: bench.served_head_cost at B = 1 and 8
ALONE: dict[str, tuple[tuple[str, ...], bool]] = {  # look-up drafters, and whether the head is there
    "n-gram": (("ngram",), False),
    "suffix": (("suffix",), False),
    "head": ((), True),
}
TOGETHER = {"suffix + head": (("suffix",), True), "all three": (("ngram", "suffix"), True)}
FROM_ANSWERS = ("recurring", "editing", "noise")
TEMPERATURES = {"noise": 1.2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A stream's recordings, and the head's drafts on those that don't only teach."""

    name: str
    recordings: Sequence[Recording]
    drafted: Sequence[Drafted]


def main(
    model: head_designs.Model,
    folder: Annotated[Path, typer.Option(help="Of bench.recorded_answers.")],
    traffic: Annotated[Path, typer.Option(help="Of bench.head_traffic, with results.")],
    head: Annotated[str, typer.Option(help="Name of a result.")],
    profile: Annotated[Path | None, typer.Option(help="A start-up profile; a card's step times, if absent.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    plain_ms: Annotated[
        float | None, typer.Option(help="Scale the profile so that one sequence's step is this.")
    ] = None,
) -> None:
    """Print E and goodput of each drafter alone and of the pool, and the pool's share of the oracle."""
    torch.set_num_threads(1)
    loaded = load(ModelSettings(model=f"{model}", max_model_len=LONGEST, threads=1))
    design, draft_token_ids = _design(traffic, head, model)
    judged = [*_from_traffic(traffic, head, loaded), *_from_answers(folder, design, draft_token_ids, loaded)]
    title, curve = (card_times.NAME, card_times.card) if profile is None else (profile.name, profiled(profile))
    if plain_ms is not None:
        title, curve = f"{title}, one row in {plain_ms} ms", scaled(curve, 1e-3 * plain_ms)
    num_weights = sum(prod(shape) for shape in tensor_shapes(loaded.config).values())
    price = by_weights_read(design.head, num_weights, curve) if profile is None else by_native_call(curve)
    bills, plain = _bills(judged, curve, price, batch=batch)
    Console(width=140).print(table_of(bills, plain, title=f"{head}, B = {batch}, step times of {title}"))


def _bills(
    judged: Sequence[Judged], curve: StepSeconds, head_seconds: DraftSeconds, *, batch: int
) -> tuple[dict[str, dict[str, Bill]], dict[str, float]]:
    """By stream and drafters, and plain seconds by stream."""
    bills = {
        stream.name: {
            name: replayed(
                stream.recordings,
                look_up(*names),
                PricedHead(stream.drafted, seconds=head_seconds) if has_head else None,
                curve=curve,
                batch=batch,
            )
            for name, (names, has_head) in (ALONE | TOGETHER).items()
        }
        for stream in judged
    }
    plain = {stream.name: plain_seconds(stream.recordings, curve=curve, batch=batch) for stream in judged}
    return bills, plain


def by_native_call(curve: StepSeconds) -> DraftSeconds:
    """What one native call for all sequences took on this machine, in steps of `curve`."""

    def seconds(sequences: int, tokens: int) -> float:
        of_step = (HEAD_CALL + HEAD_TOKEN * tokens) * (1 + HEAD_SEQUENCE * (sequences - 1))
        return of_step * curve(sequences, sequences)

    return seconds


def by_weights_read(head: RecurrentHead, num_target_weights: int, curve: StepSeconds) -> DraftSeconds:
    """A roofline: the share of a step that the weights a draft reads are of the target's, whatever a launch costs."""
    return lambda sequences, tokens: weights_read(head, tokens) / num_target_weights * curve(sequences, sequences)


def scaled(curve: StepSeconds, plain: float) -> StepSeconds:
    """As steep as `curve`, for a machine on which one sequence's step takes `plain` seconds."""
    unit = plain / curve(1, 1)
    return lambda batch, rows: unit * curve(batch, rows)


def table_of(bills: Mapping[str, Mapping[str, Bill]], plain: Mapping[str, float], *, title: str) -> Table:
    """A row per stream and drafters, first by step times alone, then with drafting; last all streams alike."""
    share = "of oracle"
    table = Table("stream", "drafters", "E", share, "goodput", share, "drafting", "goodput", share, title=title)
    ratios: dict[str, list[tuple[float, float]]] = {}
    for stream, by_drafters in bills.items():
        alone = [by_drafters[name] for name in ALONE]
        fewest = oracle_sum([bill.turns_of_request for bill in alone])
        oracle = oracle_sum([bill.steps_of_request for bill in alone])
        paid_oracle = oracle_sum([bill.seconds_of_request for bill in alone])
        for name, bill in by_drafters.items():
            ratio, paid = plain[stream] / bill.step_seconds, plain[stream] / bill.seconds
            ratios.setdefault(name, []).append((ratio, paid))
            table.add_row(
                stream,
                name,
                f"{bill.acceptance_length:.2f}",
                f"{fewest / bill.steps:.1%}",
                f"{ratio:.2f}",
                f"{oracle / bill.step_seconds:.1%}",
                f"{bill.drafting_seconds / bill.step_seconds:.1%} of step",
                f"{paid:.2f}",
                f"{paid_oracle / bill.seconds:.1%}",
            )
    for name, of_streams in ratios.items():
        ratio, paid = (harmonic_mean(each) for each in zip(*of_streams, strict=True))
        table.add_row("all alike", name, "", "", f"{ratio:.2f}", "", "", f"{paid:.2f}", "")
    return table


def oracle_sum(alone: Sequence[Mapping[str, float]]) -> float:
    """Of the best drafter of each request; `alone`: steps or seconds by request, of each drafter."""
    return sum(min(spent[request_id] for spent in alone) for request_id in alone[0])


def _from_traffic(traffic: Path, head: str, loaded: LoadedModel) -> list[Judged]:
    """Greedy chat and tools; tools with their grammars."""
    answered = recorded(traffic)
    drafts = torch.load(traffic / "results" / f"{head}.drafts", weights_only=False)
    schemas = {index: question.schema for index, question in enumerate(traffic_stream().questions)}
    return [
        Judged(
            name=name,
            recordings=_with_grammars(arranged(answered, f"{name} 0"), schemas, loaded),
            drafted=drafts[f"{name} 0"],
        )
        for name in ("chat", "tools")
    ]


def _from_answers(folder: Path, design: RecurrentDesign, draft_token_ids: Tensor, loaded: LoadedModel) -> list[Judged]:
    asked = {of.name: of for of in streams(learned=300, judged=40, seed=STREAM_SEED)}
    found = []
    for name in FROM_ANSWERS:
        answers = read(folder, name)
        judged = [answer for answer in answers if answer.is_judged and len(answer.tokens) > 1]
        drafted = draft_all(
            design,
            _documents(judged, loaded),
            draft_token_ids,
            num_positions=HEAD_CAP,
            temperature=TEMPERATURES.get(name, 0.0),
        )
        schemas = {answer.index: asked[name].questions[answer.index].schema for answer in answers}
        recordings = [
            Recording(
                request_id=f"{answer.index}",
                prompt_token_ids=answer.prompt,
                token_ids=answer.tokens,
                only_teaches=not answer.is_judged,
            )
            for answer in answers
        ]
        recordings = _with_grammars(recordings, schemas, loaded)
        found.append(Judged(name=name, recordings=recordings, drafted=drafted))
    return found


def _with_grammars(
    recordings: Sequence[Recording], schemas: Mapping[int, dict[str, Any] | None], loaded: LoadedModel
) -> list[Recording]:
    """Those that are replayed keep to the schema that they were answered under: what it forces is drafted by all."""
    compiler = grammar_compiler(loaded)

    def grammar_of(recording: Recording) -> CompiledGrammar | None:
        schema = None if recording.only_teaches else schemas[int(recording.request_id)]
        return None if schema is None else compiler.compile(json_source(schema))

    return [replace(recording, grammar=grammar_of(recording)) for recording in recordings]


def _documents(answers: Sequence[Answer], loaded: LoadedModel) -> list[Document]:
    """With the last layer's states."""
    whole = [(*answer.prompt, *answer.tokens) for answer in answers]
    asked = [TokenSequence(prompt_token_ids=tokens[:1], response_token_ids=tokens[1:]) for tokens in whole]
    found = StateReader(loaded.runner, longest=LONGEST).read(asked, is_late=lambda: False)
    return [
        Document(
            index=answer.index,
            num_prompt=len(answer.prompt),
            tokens=torch.tensor(tokens),
            features=each.hidden.to(torch.bfloat16)[:, None],
        )
        for answer, tokens, each in zip(answers, whole, found, strict=True)
    ]


def _design(traffic: Path, head: str, model: Path) -> tuple[RecurrentDesign, Tensor]:
    """The head of a result, and its draft vocabulary."""
    stored = torch.load(traffic / "results" / f"{head}.weights", weights_only=True)
    ids, weights = stored["draft_token_ids"], stored["weights"]
    target, embedding, eps = head_designs.borrowed(model, ids)
    design = RecurrentDesign(target, embedding, intermediate_size=weights["head.down"].shape[1], eps=eps)
    design.load_state_dict(weights)
    return design, ids


if __name__ == "__main__":
    typer.run(main)
