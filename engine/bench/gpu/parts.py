"""The parts of a GPU check, by value: what is wrong, bytes per second, T(n), tokens per second, torch, transformers.

Decides their order, how long each may take, and which may share the card. Each runs in a process of its own
(part_process.py), so models are built and freed here without regard to the others.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

from bench.gpu import checks, decoding, speed, transformers_peer
from bench.gpu.records import Card, Check, Decoding, NotChecked, Note, PeerSpeed, Record, StepTime
from bench.gpu.scale import ODD, SMALL, Scale
from bench.gpu.step_rows import blocks_per_sequence
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.models.triton_runner import TritonRunner

ODD_SCALES = (ODD, SMALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`is_timed`: has the card to itself; the others run side by side, compile side by side too, and come first."""

    title: str
    run: Callable[[Scale, torch.device], Iterable[Record]]
    seconds: float  # most
    is_timed: bool = True
    is_quick: bool = True


def _card(scale: Scale, device: torch.device) -> Iterator[Record]:
    if device.type != "cuda":
        yield Note(text=f"a rehearsal on {device.type}: its figures say nothing")
        return
    properties = torch.cuda.get_device_properties(device)
    yield Card(
        name=properties.name,
        capability=f"{properties.major}.{properties.minor}",
        memory_bytes=properties.total_memory,
        multiprocessors=properties.multi_processor_count,
        torch=torch.__version__,
        triton=triton.__version__,
        python=platform.python_version(),
    )


def _odd_shapes(scale: Scale, device: torch.device) -> Iterator[Check]:
    """Every check at shapes that fill no block, in both dtypes."""
    for odd in ODD_SCALES:
        for group in (
            checks.rows,
            checks.products,
            checks.attentions,
            checks.sampling,
            checks.look_up,
            checks.runner,
        ):
            for check in group(odd, device):
                yield Check(name=f"{odd.dtype}: {check.name}", error=check.error, limit=check.limit)


_OURS = frozenset({"bench", "bowsprit_engine", "bowsprit_policy"})
CARRIED = Path(__file__).parents[3] / ".gpu-packages"  # of `make gpu-packages`


def _with_the_engine(name: str) -> Callable[[Scale, torch.device], Iterator[Record]]:
    """A module that needs the engine's own packages (pydantic, llguidance), which a machine with a card may lack.

    What was carried there serves after what that machine has itself.
    """

    def run(scale: Scale, device: torch.device) -> Iterator[Record]:
        if str(CARRIED) not in sys.path:
            sys.path.append(str(CARRIED))
        try:
            module = importlib.import_module(f"bench.gpu.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in _OURS:
                raise
            yield NotChecked(name=name, reason=f"{error}; `make gpu-packages` makes a folder to carry there")
            return
        yield from module.run(scale, device)

    return run


def _bandwidth(scale: Scale, device: torch.device) -> Iterator[Record]:
    yield speed.copy_bandwidth(scale, device)
    yield from speed.product_bandwidths(scale, device)
    yield from speed.attention_bandwidths(scale, device)


def _steps(scale: Scale, device: torch.device) -> Iterator[StepTime]:
    yield from speed.step_times(_runner(TritonRunner, scale, device), scale, device)


def _decoding(scale: Scale, device: torch.device) -> Iterator[Decoding]:
    runner = _runner(TritonRunner, scale, device)
    for batch in scale.decode_batches:
        yield from decoding.compared(runner, scale, device, batch=batch)


def _torch(scale: Scale, device: torch.device) -> Iterator[StepTime]:
    few = {1, scale.batches[-1]}
    widest = {scale.rows_per_sequence[0], scale.rows_per_sequence[-1]}
    yield from speed.step_times(
        _runner(TorchRunner, scale, device),
        scale,
        device,
        is_measured=lambda batch, rows: batch in few and rows in widest,
    )


def _transformers(scale: Scale, device: torch.device) -> Iterator[Record]:
    if not transformers_peer.is_installed():
        yield Note(text="transformers is not installed here.")
        return
    for batch in scale.decode_batches[:2]:
        speed_reached = transformers_peer.tokens_per_second(scale, device, batch=batch)
        yield PeerSpeed(batch=batch, tokens_per_second=speed_reached)


def _runner(kind: type[TritonRunner] | type[TorchRunner], scale: Scale, device: torch.device) -> Runner:
    longest = max(scale.context + scale.rows_per_sequence[-1], scale.prompt_tokens + scale.answer_tokens)
    most = max(*scale.batches, *scale.decode_batches)
    checkpoint = RandomCheckpoint(Path("random"), scale.config, device=device)
    runner = kind(checkpoint, dtype=scale.dtype, device=device)
    runner.allocate_kv(most * blocks_per_sequence(longest))
    return runner


_ALL = (
    Part(title="Card", run=_card, seconds=150, is_timed=False),
    Part(title="Checks: rows", run=checks.rows, seconds=150, is_timed=False),
    Part(title="Checks: products", run=checks.products, seconds=150, is_timed=False),
    Part(title="Checks: attention", run=checks.attentions, seconds=150, is_timed=False),
    Part(title="Checks: sampling", run=checks.sampling, seconds=150, is_timed=False),
    Part(title="Checks: look-up", run=checks.look_up, seconds=150, is_timed=False),
    Part(title="Checks: runner", run=checks.runner, seconds=150, is_timed=False),
    Part(title="Checks: head", run=_with_the_engine("head_check"), seconds=150, is_timed=False),
    Part(title="Checks: engine", run=_with_the_engine("engine_check"), seconds=150, is_timed=False),
    Part(title="Checks: odd shapes", run=_odd_shapes, seconds=150, is_timed=False),
    Part(title="Bandwidth", run=_bandwidth, seconds=100),
    Part(title="Our steps", run=_steps, seconds=150),
    Part(title="Our tokens per second", run=_decoding, seconds=180),
    Part(title="The engine's tokens per second", run=_with_the_engine("engine_speed"), seconds=120),
    Part(title="torch's own operators", run=_torch, seconds=60, is_quick=False),
    Part(title="transformers", run=_transformers, seconds=100, is_quick=False),
)
PARTS: Mapping[str, Part] = {part.title: part for part in _ALL}
