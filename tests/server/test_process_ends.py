"""How the process ends: after SIGTERM nothing is lost, and an engine that dies takes the process with it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bowsprit_engine.capture.reader import read_shards
from server.process import ServerProcess, running

TESTS = Path(__file__).parents[1]


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ServerProcess]:
    command = ["server.scripted_server", "--model", "scripted", "--capture-uri", f"file://{tmp_path}/capture"]
    with running(command, tmp_path / "log", PYTHONPATH=str(TESTS), POD_UID="pod-1") as server:
        yield server


def test_after_sigterm_running_streams_finish_new_requests_are_refused_and_capture_is_written(
    scripted: ServerProcess, tmp_path: Path
) -> None:
    """The process then exits with 0."""
    body = {"model": "scripted", "prompt": "x", "max_tokens": 200, "stream": True}
    with (
        httpx.Client(base_url=scripted.url, trust_env=False, timeout=60) as client,
        client.stream("POST", "/v1/completions", json=body) as running_stream,
    ):
        lines = running_stream.iter_lines()
        next(lines)
        scripted.process.terminate()
        refused = _until_refused(scripted.url)
        not_ready = httpx.get(f"{scripted.control_url}/readyz", trust_env=False)
        events = [line.removeprefix("data: ") for line in lines if line]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (not_ready.status_code, not_ready.text) == (503, "draining")
    assert events.pop() == "[DONE]"
    assert json.loads(events.pop())["choices"][0]["finish_reason"] == "length"
    assert scripted.process.wait(60) == 0
    captured = read_shards(f"file://{tmp_path}/capture", model_digest="d" * 64).requests
    assert b"x" in [bytes(request.prompt_token_ids) for request in captured]


def test_an_engine_that_dies_ends_the_process_with_its_reason_in_the_last_line(scripted: ServerProcess) -> None:
    """Which Kubernetes shows as the container's; who waited gets an error and is not left waiting."""
    answer = httpx.post(
        f"{scripted.url}/v1/completions", json={"model": "scripted", "prompt": "fail"}, trust_env=False, timeout=60
    )
    assert answer.status_code == 503
    assert scripted.process.wait(60) == 1
    assert scripted.log.read_text().splitlines()[-1] == "scripted_server: the engine ended: RuntimeError: told to fail"


def test_a_port_in_use_is_said_before_any_model_is_loaded() -> None:
    """With the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "bowsprit_engine", "serve", "--model", "none", "--control-port", "0"]
        second = subprocess.run([*command, "--port", port], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"the serving port can't listen on 127.0.0.1:{port}" in second.stderr.splitlines()[-1]


def _until_refused(url: str) -> httpx.Response:
    """The process learns of the signal in its own time: a request that still got in is given up."""
    while True:
        answer = httpx.post(
            f"{url}/v1/completions", json={"model": "scripted", "prompt": "y", "max_tokens": 1}, trust_env=False
        )
        if answer.status_code == 503:
            return answer
