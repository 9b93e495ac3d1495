"""Thousands of short requests with random cancellations on one engine: is everybody answered, and is memory flat?

    make soak SOAK="--requests 10000"

The model is a tiny one with random weights, the cache too small for a full batch, so that sequences are preempted and
blocks are evicted all the time. Prompts share beginnings; requests are greedy or sampled, drafted or not, and some are
cancelled after a random number of tokens. Prints what became of them and the slope of the resident memory over the
second half, and exits with 1 when a request was never told its end, a block is missing at the end, or memory grew.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from bowsprit_engine.core.engine import Engine, EngineSettings
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.models import Backend, load_model
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter

VOCAB_SIZE = 320
MAX_MODEL_LEN = 128
KV_BLOCKS = 14  # a full batch of the longest requests needs 8 x 8
NUM_BEGINNINGS = 6
CANCELLED_SHARE = 0.2
CONCURRENCY = 24
NUM_SAMPLES = 200
PATIENCE_SECONDS = 300.0
MOST_BYTES_PER_REQUEST = 512  # of growth; what is known of one request is several times that
REQUESTS_THAT_TELL = 5_000  # fewer don't tell growth from the allocator's first pages
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_MODEL_LEN,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`ends`: requests by finish reason. `rss`: (requests ended, resident bytes), ascending."""

    ends: Counter[str]
    num_tokens: int
    num_cached_tokens: int
    num_preemptions: int
    kv_cache_usage: float
    seconds: float
    rss: tuple[tuple[int, int], ...]

    @property
    def bytes_per_request(self) -> float:
        """Slope of the resident memory over the second half, by least squares."""
        points = self.rss[len(self.rss) // 2 :]
        if len(points) < 2:
            return 0.0
        return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope

    def faults(self, num_requests: int) -> list[str]:
        """What is wrong after so many requests."""
        found = []
        if self.ends.total() != num_requests:
            found.append(f"{num_requests - self.ends.total()} requests were never told their end")
        if self.kv_cache_usage > 0:
            found.append(f"{self.kv_cache_usage:.1%} of the KV cache is in use at the end")
        if num_requests >= REQUESTS_THAT_TELL and self.bytes_per_request > MOST_BYTES_PER_REQUEST:
            found.append(
                f"memory grew by {self.bytes_per_request:.0f} bytes per request, the limit is {MOST_BYTES_PER_REQUEST}"
            )
        return found


class _Open:
    """A request that runs: told its tokens by the engine's thread, cancelled after `cancel_after` of them."""

    def __init__(self, soak: _Soak, request_id: str, *, cancel_after: int | None) -> None:
        self._soak = soak
        self._request_id = request_id
        self._cancel_after = cancel_after
        self._num_tokens = 0

    def take(self, output: StepOutput) -> None:
        self._num_tokens += len(output.token_ids)
        if output.finish_reason is not None:
            self._soak.end(output, self._num_tokens)
        elif self._cancel_after is not None and self._num_tokens >= self._cancel_after:
            self._cancel_after = None
            self._soak.engine.cancel(self._request_id)


class _Soak:
    def __init__(self, engine: Engine, *, num_requests: int, seed: int) -> None:
        self.engine = engine
        self._num_requests = num_requests
        self._dice = random.Random(seed)
        self._beginnings = [self._tokens(40) for _ in range(NUM_BEGINNINGS)]
        self._slots = threading.Semaphore(CONCURRENCY)
        self._lock = threading.Lock()
        self._ends: Counter[str] = Counter()
        self._num_tokens = 0
        self._num_cached = 0
        self._rss: list[tuple[int, int]] = []

    def run(self) -> Report:
        begin = time.monotonic()
        for index in range(self._num_requests):
            if not self._slots.acquire(timeout=PATIENCE_SECONDS):
                break
            self.engine.submit(self._request(index))
        for _ in range(CONCURRENCY):
            if not self._slots.acquire(timeout=PATIENCE_SECONDS):
                break
        stats = self.engine.stats()
        return Report(
            ends=self._ends,
            num_tokens=self._num_tokens,
            num_cached_tokens=self._num_cached,
            num_preemptions=stats.preemptions,
            kv_cache_usage=stats.kv_cache_usage,
            seconds=time.monotonic() - begin,
            rss=tuple(self._rss),
        )

    def end(self, output: StepOutput, num_tokens: int) -> None:
        with self._lock:
            self._ends[str(output.finish_reason)] += 1
            self._num_tokens += num_tokens
            self._num_cached += output.metrics.num_cached_tokens if output.metrics is not None else 0
            num_ended = self._ends.total()
            if num_ended % max(1, self._num_requests // NUM_SAMPLES) == 0:
                self._rss.append((num_ended, resident_bytes()))
        self._slots.release()

    def _request(self, index: int) -> Request:
        dice = self._dice
        is_cancelled = dice.random() < CANCELLED_SHARE
        request_id = f"soak-{index}"
        request = _Open(self, request_id, cancel_after=dice.randrange(1, 20) if is_cancelled else None)
        beginning = dice.choice(self._beginnings)[: dice.randrange(1, 40)]
        return Request(
            request_id=request_id,
            prompt_token_ids=(*beginning, *self._tokens(dice.randrange(1, 12))),
            sampling=SamplingParams(
                seed=dice.getrandbits(53),
                temperature=dice.choice((0.0, 0.7, 1.0)),
                top_p=dice.choice((1.0, 0.9)),
                frequency_penalty=dice.choice((0.0, 0.5)),
                max_tokens=dice.randrange(1, 72),
            ),
            speculation=SpeculationParams(enabled=dice.random() < 0.8),
            on_output=request.take,
        )

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._dice.randrange(2, VOCAB_SIZE) for _ in range(count))


def soak(engine: Engine, *, num_requests: int, seed: int) -> Report:
    """Run the requests, `CONCURRENCY` at a time, and wait for all of them."""
    return _Soak(engine, num_requests=num_requests, seed=seed).run()


@contextmanager
def tiny_engine(*, backend: Backend = "auto", num_threads: int | None = None) -> Iterator[Engine]:
    """A started engine of a random model of 100,000 parameters."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG))
        model = load_model(Path(folder), load_format="dummy", backend=backend, num_threads=num_threads)
    engine = Engine(
        runner=model.runner,
        settings=EngineSettings(
            model_name="soak",
            model_digest=model.digest,
            max_batch_size=8,
            max_model_len=MAX_MODEL_LEN,
            kv_blocks=KV_BLOCKS,
            draft_tokens_max=4,
            prefill_chunk=64,
            speculation_mode=4,
        ),
        drafters=[NGramDrafter(name="ngram")],
    )
    engine.start()
    try:
        if not engine.wait_ready(PATIENCE_SECONDS):
            raise RuntimeError(f"the engine is not ready after {PATIENCE_SECONDS:.0f} s")
        yield engine
    finally:
        engine.stop()


def resident_bytes() -> int:
    """Of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(requests: int = 10_000, seed: int = 1, backend: str = "auto", threads: int = 1) -> None:
    with tiny_engine(backend=backend, num_threads=threads) as engine:  # type: ignore[arg-type]  # load_model names what there is
        report = soak(engine, num_requests=requests, seed=seed)
    ended = report.ends.total()
    typer.echo(f"{ended} of {requests} requests ended: {dict(report.ends)}, {report.seconds:.0f} s")
    typer.echo(
        f"{report.num_tokens} tokens, {report.num_cached_tokens} of the prompts cached, "
        f"{report.num_preemptions} preemptions, KV cache in use at the end: {report.kv_cache_usage:.0%}"
    )
    if report.rss:
        first, last = (num_bytes / 2**20 for _, num_bytes in (report.rss[0], report.rss[-1]))
        slope = report.bytes_per_request * 1000 / 1024
        typer.echo(f"resident memory {first:.1f}, then {last:.1f} MiB; {slope:+.1f} KiB per 1,000 requests")
    faults = report.faults(requests)
    for fault in faults:
        typer.echo(fault, err=True)
    raise typer.Exit(int(bool(faults)))


if __name__ == "__main__":
    typer.run(main)
