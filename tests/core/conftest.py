"""An engine to talk to without HTTP: submit, wait, compare."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from bowsprit_engine.core.engine import Engine
from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.core.request import (
    FinishedRequest,
    FinishReason,
    Request,
    SamplingParams,
    SpeculationParams,
    StepOutput,
)
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.core.settings import EngineSettings
from bowsprit_engine.speculation.drafters.base import Drafter
from fakes import FakeRunner

PATIENCE_SECONDS = 60


@dataclass
class Answer:
    """What one request was told so far."""

    outputs: list[StepOutput] = field(default_factory=list)
    is_done: threading.Event = field(default_factory=threading.Event)

    @property
    def token_ids(self) -> list[int]:
        return [token for output in self.outputs for token in output.token_ids]

    @property
    def last(self) -> StepOutput:
        return self.outputs[-1]

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.last.finish_reason

    def wait(self) -> Answer:
        assert self.is_done.wait(PATIENCE_SECONDS), "the request was never told its end"
        return self


class Served:
    """A started engine and the answers of its requests."""

    def __init__(self, runner: Runner, settings: EngineSettings, drafters: Sequence[Drafter]) -> None:
        self.runner = runner
        self.finished: list[FinishedRequest] = []
        self.engine = Engine(runner=runner, settings=settings, drafters=drafters, on_finished=self.finished.append)
        self.engine.start()
        assert self.engine.wait_ready(PATIENCE_SECONDS)

    def submit(
        self,
        request_id: str,
        prompt: Sequence[int],
        *,
        speculation: SpeculationParams | None = None,
        grammar: CompiledGrammar | None = None,
        tenant: str = "",
        on_output: Callable[[StepOutput], None] = lambda _: None,
        **sampling: object,
    ) -> Answer:
        """Submit; `sampling` are SamplingParams' fields, greedy with seed 0 by default."""
        answer = Answer()

        def tell(output: StepOutput) -> None:
            answer.outputs.append(output)
            on_output(output)
            if output.finish_reason is not None:
                answer.is_done.set()

        params = SamplingParams(**{"seed": 0, "temperature": 0.0, **sampling})
        self.engine.submit(
            Request(
                request_id=request_id,
                prompt_token_ids=tuple(prompt),
                sampling=params,
                speculation=speculation or SpeculationParams(),
                on_output=tell,
                grammar=grammar,
                tenant=tenant,
            )
        )
        return answer


Serve = Callable[..., Served]


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Profiles of this session's engines stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start engines that stop with the test. Settings are for the fake model unless given."""
    started: list[Served] = []

    def start(*, runner: Runner | None = None, drafters: Sequence[Drafter] = (), **changes: object) -> Served:
        settings = EngineSettings(
            **{
                "model_name": "fake",
                "model_digest": "digest",
                "max_batch_size": 8,
                "max_model_len": 256,
                "kv_blocks": 128,
                "draft_tokens_max": 6,
                "prefill_chunk": 16,
                **changes,
            }
        )
        served = Served(runner or FakeRunner(), settings, drafters)
        started.append(served)
        return served

    yield start
    for served in started:
        served.engine.stop()
