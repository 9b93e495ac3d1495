"""What is compared with what: participants, cases, and the figures to reach. Pure: values, and which case needs whom.

Refuses to know how a participant is installed, started or timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Peer = Literal["bowsprit", "transformers", "llama_cpp", "vllm"]
Stream = Literal["chat", "code", "noise"]
Figure = Literal["decode", "prefill"]

OURS, OURS_SPECULATIVE = "bowsprit", "bowsprit speculative"
TRANSFORMERS, TRANSFORMERS_LOOKUP = "transformers", "transformers prompt_lookup"
LLAMA_CPP = "llama.cpp"
VLLM, VLLM_NGRAM = "vLLM", "vLLM ngram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """One engine in one mode, in a process of its own."""

    name: str
    peer: Peer
    mode: str
    max_batch_size: int = 16


PARTICIPANTS: tuple[Participant, ...] = (
    Participant(name=OURS, peer="bowsprit", mode="plain"),
    Participant(name=OURS_SPECULATIVE, peer="bowsprit", mode="auto"),
    Participant(name=LLAMA_CPP, peer="llama_cpp", mode="plain"),
    Participant(name=VLLM, peer="vllm", mode="plain"),
    Participant(name=VLLM_NGRAM, peer="vllm", mode="ngram"),
    Participant(name=TRANSFORMERS, peer="transformers", mode="plain"),
    # transformers' assisted generation takes one sequence
    Participant(name=TRANSFORMERS_LOOKUP, peer="transformers", mode="prompt_lookup", max_batch_size=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One table row: the same prompts for every participant, `rounds` times over."""

    name: str
    title: str
    figure: Figure
    stream: Stream
    batch: int
    prompt_tokens: int  # of the stream `code`: the least that a program must have
    max_tokens: int
    rounds: int
    participants: tuple[str, ...]
    temperature: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is run."""

    batches: tuple[int, ...]
    hostile_batches: tuple[int, ...]
    rounds: int
    max_tokens: int


QUICK = Scale(batches=(1, 8), hostile_batches=(1, 8), rounds=3, max_tokens=64)
FULL = Scale(batches=(1, 4, 8, 16), hostile_batches=(1, 2, 4, 8, 16), rounds=9, max_tokens=128)

LONGEST_SEQUENCE = 2304
ROUNDS_OF_ONE_PROGRAM = 3  # for each of another case's: programs differ in how much of them the model copies


def cases(scale: Scale) -> tuple[Case, ...]:
    """In the order they run."""
    return (*_decoding(scale), _prefill(scale), *_copying(scale), *_hostile(scale))


def _decoding(scale: Scale) -> Iterator[Case]:
    """Greedy, real chat, 192 tokens of prompt and up to 128 of answer: about 256 of context on average."""
    for batch in scale.batches:
        yield Case(
            name=f"decode-{batch}",
            title=f"decode, greedy, B={batch}, context 192 to {192 + scale.max_tokens}",
            figure="decode",
            stream="chat",
            batch=batch,
            prompt_tokens=192,
            max_tokens=scale.max_tokens,
            rounds=scale.rounds,
            participants=_able([entry.name for entry in PARTICIPANTS], batch),
        )


def _prefill(scale: Scale) -> Case:
    return Case(
        name="prefill-1024",
        title="prefill, 1,024 tokens, B=1",
        figure="prefill",
        stream="chat",
        batch=1,
        prompt_tokens=1024,
        max_tokens=1,
        rounds=scale.rounds,
        participants=(OURS, LLAMA_CPP, VLLM, TRANSFORMERS),
    )


def _copying(scale: Scale) -> Iterator[Case]:
    for batch in (1, 8):
        names = [OURS, OURS_SPECULATIVE, LLAMA_CPP, VLLM, VLLM_NGRAM, TRANSFORMERS_LOOKUP]
        yield Case(
            name=f"copy-{batch}",
            title=f"copying a program given in the prompt, greedy, B={batch}",
            figure="decode",
            stream="code",
            batch=batch,
            prompt_tokens=160,
            max_tokens=min(96, scale.max_tokens),
            rounds=scale.rounds * (ROUNDS_OF_ONE_PROGRAM if batch == 1 else 1),
            participants=_able(names, batch),
        )


def _hostile(scale: Scale) -> Iterator[Case]:
    for batch in scale.hostile_batches:
        yield Case(
            name=f"hostile-{batch}",
            title=f"random tokens, temperature 1.2, B={batch}",
            figure="decode",
            stream="noise",
            batch=batch,
            prompt_tokens=64,
            max_tokens=scale.max_tokens,
            rounds=scale.rounds,
            participants=(OURS, OURS_SPECULATIVE),
            temperature=1.2,
        )


def _able(names: Sequence[str], batch: int) -> tuple[str, ...]:
    limits = {entry.name: entry.max_batch_size for entry in PARTICIPANTS}
    return tuple(name for name in names if batch <= limits[name])
