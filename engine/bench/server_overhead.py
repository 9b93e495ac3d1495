"""What HTTP costs: tokens/s of streams over loopback beside the same engine asked directly, in turn.

`PYTHONPATH=engine python -m bench.server_overhead --model FILE` starts `bowsprit-engine serve` in its own process and
an engine in this one, both without speculation, and lets them generate by turns, so that both see the same machine.
The client runs on the same cores as the server, as it would in no deployment: it only reads bytes, so that the figure
is the server's cost and not that of a client library (httpx alone takes 0.6 ms of processor time per event here).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import httpx

from bench.spread import ratio
from bowsprit_engine.config import ServeSettings
from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.request import Request, SamplingParams, SpeculationParams, StepOutput
from bowsprit_engine.server.assembly import assemble, load

PROMPT = tuple(range(1000, 1064))
READY_SECONDS = 300.0
REQUEST = (
    "POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    "Content-Length: {length}\r\nConnection: close\r\n\r\n"
)
_LISTENING = re.compile(r"listening: serving [\d.]+:(\d+), control [\d.]+:(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Tokens per second, one value per round."""

    streams: int
    bare: tuple[float, ...]
    http: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median over the rounds of HTTP / bare, each of one round."""
        return statistics.median(over / bare for over, bare in zip(self.http, self.bare, strict=True))


def measure(
    model: str, *, streams: Sequence[int] = (1, 8), num_tokens: int = 128, rounds: int = 5, max_model_len: int = 512
) -> list[Overhead]:
    """For each number of streams, `rounds` rounds of both ways after one that isn't counted."""
    settings = ServeSettings(
        model=model, max_model_len=max_model_len, speculation="off", max_batch_size=max(streams), port=0, control_port=0
    )
    engine = assemble(settings, load(settings), lambda finished: None)
    engine.start()
    engine.wait_ready(READY_SECONDS)
    results = []
    try:
        with _server(settings) as url:
            for count in streams:
                pairs = [
                    (_bare(engine, count, num_tokens, turn), _over_http(url, count, num_tokens, turn))
                    for turn in range(rounds + 1)
                ][1:]
                bare, http = zip(*pairs, strict=True)
                results.append(Overhead(streams=count, bare=bare, http=http))
    finally:
        engine.stop()
    return results


def _bare(engine: Engine, streams: int, num_tokens: int, turn: int) -> float:
    """Tokens per second of requests that the engine is given directly."""
    all_ended = threading.Semaphore(0)

    def told(output: StepOutput) -> None:
        if output.finish_reason is not None:
            all_ended.release()

    began = time.perf_counter()
    for number in range(streams):
        engine.submit(
            Request(
                request_id=f"{turn}-{number}",
                prompt_token_ids=(*PROMPT, turn + 10, number + 10),
                sampling=SamplingParams(seed=number, temperature=0.0, max_tokens=num_tokens, ignore_eos=True),
                speculation=SpeculationParams(enabled=False),
                on_output=told,
            )
        )
    for _ in range(streams):
        all_ended.acquire()
    return streams * num_tokens / (time.perf_counter() - began)


def _over_http(url: str, streams: int, num_tokens: int, turn: int) -> float:
    """Tokens per second of as many streams, each read to its end."""
    host, port = url.removeprefix("http://").split(":")
    body = {"model": "model", "max_tokens": num_tokens, "temperature": 0.0, "ignore_eos": True, "stream": True}
    began = time.perf_counter()
    with selectors.DefaultSelector() as open_streams, contextlib.ExitStack() as sockets:
        for number in range(streams):
            stream = sockets.enter_context(socket.create_connection((host, int(port)), timeout=600))
            content = json.dumps({**body, "prompt": [*PROMPT, turn + 10, number + 10]}).encode()
            stream.sendall(REQUEST.format(host=host, length=len(content)).encode() + content)
            open_streams.register(stream, selectors.EVENT_READ, bytearray())
        while open_streams.get_map():
            for key, _ in open_streams.select():
                _read(key, open_streams)
    return streams * num_tokens / (time.perf_counter() - began)


def _read(key: selectors.SelectorKey, open_streams: selectors.BaseSelector) -> None:
    """Take in what came of one stream. Raises RuntimeError for an answer that isn't a whole one."""
    received: bytearray = key.data
    stream = cast("socket.socket", key.fileobj)
    if part := stream.recv(1 << 16):
        received += part
        return
    open_streams.unregister(stream)
    if not received.startswith(b"HTTP/1.1 200") or b"data: [DONE]" not in received[-64:]:
        raise RuntimeError(f"the server answered {bytes(received[:200])!r} … {bytes(received[-64:])!r}")


@contextmanager
def _server(settings: ServeSettings) -> Iterator[str]:
    """A server's URL. Raises RuntimeError with its log's end when it doesn't get ready."""
    command = [sys.executable, "-m", "bowsprit_engine", "serve", "--model", settings.model, "--served-name", "model"]
    command += ["--max-model-len", str(settings.max_model_len), "--max-batch-size", str(settings.max_batch_size)]
    command += ["--speculation", "off", "--port", "0", "--control-port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink)
        try:
            yield _ready_url(process, log)
        finally:
            process.terminate()
            process.wait()


def _ready_url(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if (ports := _LISTENING.search(log.read_text())) is not None:
            probe = f"http://127.0.0.1:{ports[2]}/readyz"
            with contextlib.suppress(httpx.TimeoutException):  # a machine under load
                if httpx.get(probe, trust_env=False).status_code == 200:
                    return f"http://127.0.0.1:{ports[1]}"
        time.sleep(0.2)
    raise RuntimeError(f"the server isn't ready: {log.read_text()[-2000:]}")


def figures(results: Sequence[Overhead]) -> dict[str, dict[str, float]]:
    """HTTP / bare by name, a ratio of medians with its interval over the rounds: what `make bench` judges."""
    return {f"http_streams_{result.streams}": asdict(ratio(result.http, result.bare)) for result in results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    results = measure(given.model, num_tokens=given.tokens, rounds=3 if given.quick else given.rounds)
    if given.json is not None:
        given.json.write_text(json.dumps({"figures": figures(results)}, indent=1))
    for result in results:
        bare, http = (f"{statistics.median(values):.1f}" for values in (result.bare, result.http))
        print(f"{result.streams} streams: {bare} tokens/s bare, {http} over HTTP, ratio {result.ratio:.3f}")


if __name__ == "__main__":
    main()
