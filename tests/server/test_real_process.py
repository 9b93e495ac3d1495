"""`bowsprit-engine serve` with a real engine on a tiny model: from the first probe to the end of its drain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tiny_models import tiny_config, tiny_llama

LISTENING = re.compile(r"listening: serving [\d.]+:(\d+), control [\d.]+:(\d+)")
PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.02
NUM_TOKENS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process that listens; whether it is ready is for the test to see."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str
    control_url: str

    def readiness(self) -> tuple[int, str]:
        answer = httpx.get(f"{self.control_url}/readyz", trust_env=False, timeout=PATIENCE_SECONDS)
        return answer.status_code, answer.text

    def complete(self, max_tokens: int = 4) -> httpx.Response:
        body = {"model": "tiny", "prompt": "x", "max_tokens": max_tokens, "ignore_eos": True}
        return httpx.post(f"{self.url}/v1/completions", json=body, trust_env=False, timeout=PATIENCE_SECONDS)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """All of its configuration comes from the environment."""
    environment = {
        "BOWSPRIT_MODEL": str(tiny_llama(tmp_path / "tiny", tiny_config(max_model_len=4096))),
        "BOWSPRIT_BACKEND": "torch",
        "BOWSPRIT_THREADS": "1",
        "BOWSPRIT_PORT": "0",
        "BOWSPRIT_CONTROL_PORT": "0",
        "BOWSPRIT_CACHE_DIR": str(tmp_path / "cache"),
        "BOWSPRIT_SPECULATION": "off",
    }
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "bowsprit_engine", "serve"], stdout=sink, stderr=sink, env=os.environ | environment
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (ports := LISTENING.search(log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(POLL_SECONDS)
        url, control_url = (f"http://127.0.0.1:{port}" for port in ports.groups())
        yield Started(process=process, log=log, url=url, control_url=control_url)
    finally:
        process.kill()
        process.wait()


def test_it_is_ready_after_its_warm_up_serves_and_drains(started: Started) -> None:
    """Not ready with a reason until its steps are timed; after SIGTERM the stream ends whole, new ones get 503."""
    early = started.complete()
    reasons = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (readiness := started.readiness())[0] != 200:
        reasons.append(readiness)
        assert time.monotonic() < deadline, started.log.read_text()
        time.sleep(POLL_SECONDS)

    assert (early.status_code, early.headers["retry-after"], early.json()["error"]["code"]) == (503, "1", "Starting")
    assert set(reasons) <= {(503, "loading the model"), (503, "profiling the model")}
    assert "profiled " in started.log.read_text()
    assert started.complete().json()["usage"]["completion_tokens"] == 4

    body = {"model": "tiny", "prompt": "x", "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True}
    with (
        httpx.Client(base_url=started.url, trust_env=False, timeout=PATIENCE_SECONDS) as client,
        client.stream("POST", "/v1/completions", json=body) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        started.process.terminate()
        while (refused := started.complete(1)).status_code == 200:
            assert time.monotonic() < deadline + PATIENCE_SECONDS
        not_ready = started.readiness()
        events = [line.removeprefix("data: ") for line in lines if line]

    assert (refused.status_code, refused.headers["retry-after"], refused.json()["error"]["code"]) == (
        503,
        "1",
        "Draining",
    )
    assert not_ready == (503, "draining")
    assert events.pop() == "[DONE]"
    last = json.loads(events.pop())
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["metrics"]["speculative_decoding"]["num_steps"] == NUM_TOKENS - 1
    assert started.process.wait(PATIENCE_SECONDS) == 0
