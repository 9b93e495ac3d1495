"""How long work takes on the device.

On a GPU the work is captured once and replayed between two events: the host's launches take longer than a small kernel,
and so does the host's waiting. Captured or not, nothing is timed before it has run once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP_SECONDS = 1.0
WARM_UP_BYTES = 2**28


def warm_up(device: torch.device) -> None:
    """A second of copies: a card that idled has its clocks down, and the first figures would be too low."""
    if device.type != "cuda":
        return
    source = torch.zeros(WARM_UP_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    end = time.perf_counter() + WARM_UP_SECONDS
    while time.perf_counter() < end:
        target.copy_(source)
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], *, device: torch.device, repeats: int) -> float:
    """Median of `repeats` runs of work that waits for nothing. Its inputs must be larger than the caches together."""
    if device.type != "cuda":
        return statistics.median(_host_seconds(work) for _ in range(repeats))
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return _event_seconds(graph, repeats=repeats)


def _event_seconds(graph: torch.cuda.CUDAGraph, *, repeats: int) -> float:
    """Two replays warm up. No event is read before all replays are under way, so the device never idles."""
    for _ in range(2):
        graph.replay()
    events = []
    for _ in range(repeats):
        begin, end = _event(), _event()
        begin.record()
        graph.replay()
        end.record()
        events.append((begin, end))
    torch.cuda.synchronize()
    milliseconds: list[float] = [begin.elapsed_time(end) for begin, end in events]
    return statistics.median(milliseconds) / 1e3


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def seconds_of_calls(call: Callable[[], object], *, device: torch.device, repeats: int) -> float:
    """Median of `repeats` calls from the host, each waited for; two before them warm up."""
    for _ in range(2 if device.type == "cuda" else 0):
        call()
    samples = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples)


def _host_seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
