"""A case turned into requests, drafters and an engine, run, and compared with what the same requests answer alone.

Decides which prompts, neighbours and limits a case has. What is right is asked of the plain engine, once per (prompt,
sampling, grammar), with the log-probabilities of the three most likely tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.core.request import FinishReason, SamplingParams, SpeculationParams, TokenLogprob
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.core.sampling import choose_draw
from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_engine.speculation.drafters.serving_head import serving_head
from bowsprit_engine.speculation.drafters.small_model import SmallModelDrafter
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.training.head import HeadShape, RecurrentHead, TargetRows
from exactness.design import ADAPTIVE, Case
from exactness.served import MAX_MODEL_LEN, Answer, Asked, MovingTable, Run, Served, engine_of, plain_answer
from fakes import adversary, oracle

NUM_LOGPROBS = 3
BLOCKS = {"roomy": 96, "tiny": MAX_MODEL_LEN // 16}  # tiny: one sequence of full length, no more
WISHES = (
    SpeculationParams(),
    SpeculationParams(),
    SpeculationParams(max_draft_tokens=2),
    SpeculationParams(enabled=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A model with what is asked of it. `grammars`: by name, None among them for none. `draft_model`: a model that
    drafts for it, made anew for each case.
    """

    runner: Runner
    prompts: Sequence[tuple[int, ...]]
    samplings: Mapping[str, Mapping[str, object]]
    grammars: Mapping[str | None, CompiledGrammar | None]
    max_tokens: int
    num_visitors: int
    draft_model: Callable[[], Runner] | None = None


class Bench:
    """Runs cases on one model and remembers its plain answers."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self._plain: dict[tuple[object, ...], Answer] = {}

    def run(self, case: Case) -> tuple[Served, dict[str, Answer]]:
        """What was answered, and what each request answers alone, both by name."""
        requests, visitors = self._asked(case)
        expected = {asked.name: self._plain_answer(asked) for asked in [*requests, *visitors]}
        sequences = {asked.name: [*asked.prompt, *expected[asked.name].token_ids] for asked in [*requests, *visitors]}
        engine = engine_of(
            self.material.runner,
            drafters=self._drafters(case, sequences),
            mode="auto" if case.draft_tokens == ADAPTIVE else case.draft_tokens,
            batch=case.batch,
            kv_blocks=BLOCKS[case.kv],
            prefill_chunk=case.prefill_chunk,
            has_prefix_cache=case.prefix_cache,
        )
        push: Callable[[], None] = MovingTable(engine).push if case.draft_tokens == ADAPTIVE else lambda: None
        return Run(engine, visitors=visitors, on_any_output=push).serve(requests), expected

    def _asked(self, case: Case) -> tuple[list[Asked], list[Asked]]:
        """As many requests as fit the batch and two that wait, and neighbours who come while they run."""
        kinds = list(self.material.samplings)
        first = kinds.index(case.sampling)
        num_visitors = self.material.num_visitors if case.neighbours == "come and go" else 0
        asked = [
            Asked(
                name=f"r{index}",
                prompt=self.material.prompts[index % len(self.material.prompts)],
                sampling=self._sampling(kinds[(first + index) % len(kinds)], index, case.logprobs),
                speculation=WISHES[index % len(WISHES)],
                grammar=self.material.grammars[case.grammar] if index % 3 == 0 else None,
                leaves=index >= case.batch + 2 and index % 3 == 0,
            )
            for index in range(case.batch + 2 + num_visitors)
        ]
        return asked[: case.batch + 2], asked[case.batch + 2 :]

    def _sampling(self, kind: str, index: int, logprobs: int | None) -> SamplingParams:
        fields = {"seed": 100 + index, "max_tokens": self.material.max_tokens, **self.material.samplings[kind]}
        return SamplingParams(**fields, num_logprobs=logprobs)

    def _plain_answer(self, asked: Asked) -> Answer:
        key = (asked.prompt, str(replace(asked.sampling, num_logprobs=None)), id(asked.grammar))
        if key not in self._plain:
            self._plain[key] = plain_answer(self.material.runner, asked, num_logprobs=NUM_LOGPROBS)
        return self._plain[key]

    def _drafters(self, case: Case, sequences: Mapping[str, Sequence[int]]) -> list[Drafter]:
        runner = self.material.runner
        return {
            "none": list,
            "ngram": lambda: [NGramDrafter(name="ngram")],
            "head": lambda: [untrained_head(runner)],
            "suffix+head": lambda: [SuffixDrafter(name="suffix"), untrained_head(runner)],
            "hostile": lambda: [adversary(vocab_size=runner.config.vocab_size)],
            "oracle": lambda: [oracle(sequences)],
            "model": lambda: [self._small_model(num_blocks=BLOCKS[case.kv], chunk_tokens=case.prefill_chunk)],
        }[case.drafter]()

    def _small_model(self, *, num_blocks: int, chunk_tokens: int) -> SmallModelDrafter:
        if self.material.draft_model is None:
            raise ValueError("this material has no draft model")
        runner = self.material.draft_model()
        return SmallModelDrafter(
            name="model",
            runner=runner,
            num_blocks=num_blocks,
            target_vocab_size=self.material.runner.config.vocab_size,
            chunk_tokens=chunk_tokens,
            draw=choose_draw(runner.final_norm_weight().device),
        )


def told(answer: Answer, num_logprobs: int | None) -> tuple[object, ...]:
    """All that a client sees of an answer, bit for bit, with as many log-probabilities as it asked for."""
    return (
        answer.finish_reason,
        answer.error,
        answer.token_ids,
        [_cut(entry, num_logprobs) for entry in answer.logprobs] if num_logprobs is not None else [],
    )


def assert_is_plain(case: Case, served: Served, expected: Mapping[str, Answer]) -> None:
    """Every answer is the plain one; one whose client hung up is its beginning."""
    for name, answer in served.answers.items():
        plain = expected[name]
        if answer.finish_reason is FinishReason.ABORT:
            assert plain.token_ids[: len(answer.token_ids)] == answer.token_ids, name
        else:
            assert told(plain, case.logprobs) == told(answer, case.logprobs), name


def untrained_head(runner: Runner) -> HeadDrafter:
    """A head with random weights over every second token: it proposes at every step, and is nearly always wrong."""
    token_ids = torch.arange(0, runner.config.vocab_size, 2)[:2048]
    torch.manual_seed(0)
    shape = HeadShape(
        hidden_size=runner.config.hidden_size, intermediate_size=64, rms_norm_eps=runner.config.rms_norm_eps
    )
    target = TargetRows(
        draft_token_ids=token_ids,
        lm_head=runner.lm_head_rows(token_ids),
        final_norm=runner.final_norm_weight(),
    )
    drafter = HeadDrafter(name="head", runner=runner)
    drafter.swap_in(serving_head(RecurrentHead(shape, target), token_ids, runner, revision="untrained"))
    return drafter


def _cut(entry: TokenLogprob, num_top: int) -> TokenLogprob:
    return replace(entry, top=entry.top[:num_top])
