"""An engine without a model for tests of the server: it says what it is told to, from a thread of its own, in steps.

Its tokenizer has one token per byte, so that every character beyond ASCII is spread over several tokens.
"""

from __future__ import annotations

import functools
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bowsprit_engine.core.request import (
    FinishedRequest,
    FinishReason,
    Request,
    RequestMetrics,
    StepOutput,
    TokenLogprob,
)
from bowsprit_engine.errors import CallerError, StalePolicyError, WorldError
from bowsprit_policy.wire import DrafterLoad, DrafterStats, EngineStats, PolicyStatus, PolicyTable, Profile
from builders import drafter_stats, engine_stats, profile, step_cell

END = 256
VOCAB_SIZE = 259
MAX_MODEL_LEN = 512
TEMPLATE = (
    "{% for message in messages %}<|role|>{{ message['role'] }}:{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant:{% endif %}"
)


@functools.cache
def byte_tokenizer(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Token i is byte i; 256 ends a text, 257 begins a turn."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_byte = {_byte_of(letter): letter for letter in letters}
    tokenizer = Tokenizer(models.BPE(vocab={by_byte[i]: i for i in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|end|>", "<|role|>", "<|pad|>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, eos_token="<|end|>", clean_up_tokenization_spaces=False
    )


def _byte_of(letter: str) -> int:
    """The byte that a letter of the byte-level alphabet stands for: itself where printable, else in order from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    code = ord(letter)
    return code if code in printable else others[code - 256]


@dataclass
class ScriptedEngine:
    """Answers every request with `answer(request)`, `step_tokens` tokens per step; `gate` holds steps back while clear.

    `error` ends requests in that error after their first step.
    """

    answer: Callable[[Request], Sequence[int]] = lambda request: b"The answer is 42."
    step_tokens: int = 3
    error: str | None = None
    on_finished: Callable[[FinishedRequest], None] = lambda finished: None
    gate: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    loads: list[tuple[str, DrafterLoad]] = field(default_factory=list)
    load_error: Exception | None = None
    submit_error: Exception | None = None
    num_cached_tokens: int = 0  # of every prompt

    def __post_init__(self) -> None:
        self.gate.set()
        self.was_cancelled = threading.Event()
        self.was_asked = threading.Event()
        self._table = PolicyTable(revision=3, table=())
        self._work: queue.Queue[Request | None] = queue.Queue()
        self._is_ready = False
        self._thread = threading.Thread(target=self._run, name="bowsprit-engine", daemon=True)

    @property
    def is_ready(self) -> bool:
        return self._is_ready

    def start(self) -> None:
        self._is_ready = True
        self._thread.start()

    def stop(self, drain_seconds: float = 0.0) -> None:
        self._is_ready = False
        self.gate.set()
        self._work.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, request: Request) -> None:
        if not self._is_ready:
            raise WorldError("the engine is draining", reason="Draining")
        if self.submit_error is not None:
            raise self.submit_error
        if request.speculation.drafter not in (None, "ngram", "head"):
            raise CallerError(f"no drafter {request.speculation.drafter!r}", param="speculation.drafter")
        self.requests.append(request)
        self.was_asked.set()
        self._work.put(request)

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)
        self.was_cancelled.set()

    def stats(self) -> EngineStats:
        cells = [step_cell(batch=1, rows=4, steps=10, milliseconds=5.0)]
        stats = engine_stats(drafters=self.drafters(), cells=cells)
        return stats.model_copy(update={"prefix_cache_queries": 60, "prefix_cache_hits": 48})

    def profile(self) -> Profile:
        return profile([step_cell()])

    def policy(self) -> PolicyStatus:
        return PolicyStatus(revision=self._table.revision, table=self._table.table)

    def set_policy(self, table: PolicyTable) -> PolicyStatus:
        if table.revision < self._table.revision:
            raise StalePolicyError(stored=self._table.revision, offered=table.revision)
        self._table = table
        return self.policy()

    def drafters(self) -> tuple[DrafterStats, ...]:
        return (
            drafter_stats(
                opportunities=15,
                proposed=11,
                reached=(12, 4),
                matched=(9, 1),
                extendable=(7, 6),
                drafted=(6, 5),
                drafted_tokens=10,
                accepted=(4, 1),
            ).model_copy(update={"kv_lag_tokens": 7, "not_finite": 2}),
        )

    def load_drafter(self, name: str, load: DrafterLoad) -> DrafterStats:
        if self.load_error is not None:
            raise self.load_error
        self.loads.append((name, load))
        return drafter_stats(name, revision=load.revision)

    def pace(self) -> None:
        """Called before each step."""

    def _run(self) -> None:
        while (request := self._work.get()) is not None:
            try:
                self._serve(request)
            except Exception:
                self._is_ready = False
                self._tell(request, (), FinishReason.ABORT, 0)
                raise

    def _serve(self, request: Request) -> None:
        tokens = list(self.answer(request))
        told = min(len(tokens), request.sampling.max_tokens)
        reason = FinishReason.STOP if told == len(tokens) and tokens[-1:] == [END] else FinishReason.LENGTH
        emitted: list[int] = []
        starts = range(0, told, self.step_tokens)
        for number, start in enumerate(starts):
            self.gate.wait()
            self.pace()
            if request.request_id in self.cancelled or not self._is_ready:
                reason = FinishReason.ABORT
                self._tell(request, (), FinishReason.ABORT, number)
                break
            if self.error is not None and number == 1:
                request.on_output(
                    StepOutput(
                        request_id=request.request_id, token_ids=(), finish_reason=FinishReason.ERROR, error=self.error
                    )
                )
                return
            piece = tuple(tokens[start : min(start + self.step_tokens, told)])
            emitted += piece
            self._tell(request, piece, reason if number == len(starts) - 1 else None, number + 1)
        self.on_finished(_finished(request, emitted, reason))

    def _tell(self, request: Request, tokens: tuple[int, ...], reason: FinishReason | None, steps: int) -> None:
        wanted = request.sampling.num_logprobs
        request.on_output(
            StepOutput(
                request_id=request.request_id,
                token_ids=tokens,
                logprobs=None if wanted is None else tuple(_logprob(token, wanted) for token in tokens),
                finish_reason=reason,
                metrics=None if reason is None else _metrics(steps, self.num_cached_tokens),
            )
        )


def _logprob(token_id: int, num_top: int) -> TokenLogprob:
    others = itertools.islice((other for other in range(65, 90) if other != token_id), max(0, num_top - 1))
    top = ((token_id, -0.25), *((other, -2.0) for other in others))
    return TokenLogprob(token_id=token_id, logprob=-0.25, top=top[:num_top])


def _metrics(steps: int, num_cached_tokens: int) -> RequestMetrics:
    return RequestMetrics(
        num_spec_steps=4,
        num_draft_tokens=12,
        num_accepted_draft_tokens=6,
        acceptance_histogram=(1, 1, 1, 1),
        num_steps=steps,
        num_cached_tokens=num_cached_tokens,
    )


def _finished(request: Request, emitted: list[int], reason: FinishReason) -> FinishedRequest:
    return FinishedRequest(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        response_token_ids=tuple(emitted),
        accepted_counts=(0,),
        drafter_names=("ngram",),
        finish_reason=reason,
        tenant=request.tenant,
        capture_allowed=request.capture_allowed,
        temperature=request.sampling.temperature,
    )
