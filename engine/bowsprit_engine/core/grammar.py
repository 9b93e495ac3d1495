"""Output that keeps to a grammar: which tokens may follow at a row of a step, and how much of a draft is possible.

Decides by the grammar and the tokens before the row alone, so a constrained answer depends on nothing that was drafted,
nor does the place where a grammar fails: a limit of the library ends an answer where a mask is asked for, which is
where the token that would be drawn without one may not follow. The library counts the work of a lexer that remembers
what it has seen, drafts that were refused and other sequences included: so that count never ends an answer, except that
of a grammar which is called costly. Such a grammar has its lexer to itself and a mask at every token, and nothing is
drafted for it.
A lexer's memory is bounded too, and there are never more lexers that grow than sequences that run: those of one grammar
share one, and a sequence that waits has none (core/lexers.py).
llguidance has the grammars; compiling happens in the caller's thread, not in the engine's. Refuses to know where a
grammar comes from (schemas, tools, expressions: the server's matter) and what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from bowsprit_engine.core.lexers import Lexers, lexer_states
from bowsprit_engine.errors import CallerError
from bowsprit_engine.speculation.verify import num_leading_equal

MAX_SOURCE_CHARACTERS = 65_536
# What one grammar may cost: its own size, and the parser's work for one mask, which is the same whenever it is asked
# for (measured: 500 properties 5 ms; beyond, refused).
MAX_SYMBOLS = 10_000
MAX_ITEMS = 10_000
COSTLY_FUEL = 200_000  # of a costly grammar's lexer for one mask, 15 to 30 ms
UNBOUND_FUEL = 2**62  # of any other's: what would be too much is to be called costly before it is compiled
FAILED = "grammar_failed"

Allowed = NDArray[np.bool_]  # [vocab], True where a token may be drawn


class GrammarCompiler:
    """Grammars over one model's tokens. May be used from any thread."""

    def __init__(
        self,
        tokenizer: LLTokenizer,  # with at least as many tokens as the model has logits
        *,
        vocab_size: int,
        eos_token_ids: Sequence[int],  # one of them at least within the vocabulary: a grammar ends with it
    ) -> None:
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos = frozenset(token for token in eos_token_ids if token < vocab_size)
        self._lexer_states = lexer_states(vocab_size)

    def compile(self, source: str, *, is_costly: bool = False, limits: LLParserLimits | None = None) -> CompiledGrammar:
        """A grammar from llguidance's own notation (`grammar_from_*`). Raises CallerError with the library's words.

        `is_costly`: its lexer may ask for more work than an engine's thread can give (server/expressions.py judges).
        """
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise CallerError(f"the grammar has {len(source)} characters, the limit is {MAX_SOURCE_CHARACTERS}")
        if limits is None:
            limits = LLParserLimits(
                max_grammar_size=MAX_SYMBOLS,
                step_max_items=MAX_ITEMS,
                step_lexer_fuel=COSTLY_FUEL if is_costly else UNBOUND_FUEL,
                max_lexer_states=self._lexer_states,
                precompute_large_lexemes=not is_costly,  # what it has no fuel for: 13,000 states of one were seen
                verbose_errors=False,
            )

        def fresh() -> LLMatcher:
            return LLMatcher(self.tokenizer, source, log_level=0, limits=limits)

        matcher = fresh()
        if not matcher.is_error():
            _mask(matcher, self.tokenizer.vocab_size)  # finds what is too complex, and warms the lexer
        if matcher.is_error():
            raise CallerError(words_of(matcher.get_error()))
        return CompiledGrammar(
            lexers=Lexers(matcher, fresh),
            num_characters=len(source),
            is_costly=is_costly,
            eos_token_ids=self._eos,
            vocab_size=self._vocab_size,
            mask_size=self.tokenizer.vocab_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class CompiledGrammar:
    """A grammar, and the lexers of the sequences that are in it. `num_characters`: of its source.

    `mask_size`: tokens of the tokenizer, which may be more than logits. `is_costly`: what a lexer may do for a mask is
    limited, and must not depend on what else it was asked.
    """

    lexers: Lexers
    num_characters: int
    is_costly: bool
    eos_token_ids: frozenset[int]
    vocab_size: int
    mask_size: int

    def begin(self) -> GrammarState:
        return GrammarState(self)


class GrammarState:
    """Where one sequence is in its grammar. Only the engine's thread touches it; preemption doesn't concern it.

    A step's rows are walked by `follow`, `mask` and `take`, which look at the place after the tokens that were taken;
    `go_back` forgets these, `advance` keeps those of them that were emitted. `beginning`: the grammar before any token,
    over this sequence's lexer; None until the sequence first asks for anything.
    """

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self.beginning: LLMatcher | None = None
        self._emitted: list[int] = []
        self._taken: list[int] = []  # since; the matcher is after them

    @cached_property
    def _matcher(self) -> LLMatcher:
        lexers = self._grammar.lexers
        self.beginning = lexers.unshared() if self._grammar.is_costly else lexers.shared_by(self)
        return self.beginning.deep_copy()

    def num_possible(self, draft: Sequence[int]) -> int:
        """Leading tokens of a draft that may all be emitted, an end token not counted: its row could give no bonus.

        None for a costly grammar: its masks are those of emitted tokens, each of them once.
        """
        self.go_back()
        ends = self._grammar.eos_token_ids
        end = next((index for index, token in enumerate(draft) if token in ends), len(draft))
        if end == 0 or self._grammar.is_costly:
            return 0
        possible = self._matcher.validate_tokens(list(draft[:end]))
        if possible == end:
            return end
        if self._computed() is None:  # a lexer that is full allows nothing, and says so here
            self._begin_again()
            possible = self._matcher.validate_tokens(list(draft[:end]))
        return possible

    def forced(self, limit: int) -> tuple[int, ...]:
        """At most `limit` tokens of the text that the grammar leaves no choice about from here on; no end token.

        The text is sure, its cutting into tokens likely: with a tokenizer that cuts one text in one way, masks ask for
        these tokens too, but for the last ones a mask may allow another cutting of the same text, and what follows may
        yet change. The state is as before when this returns. None of a costly grammar, for which nothing is drafted.
        """
        self.go_back()
        return () if limit <= 0 or self._grammar.is_costly else tuple(self._matcher.compute_ff_tokens()[:limit])

    def follow(self, token_id: int) -> Allowed | None:
        """Take a token, where it may follow without a mask being asked; else what may follow, and nothing is taken.

        None: it was taken. End tokens, and all of a costly grammar, are only told by a mask, which may allow them. The
        library's check of one token is a tenth of a mask's price, and knows of bytes alone: where masks ask for one
        cutting of a forced text, it must be the token that they ask for. Raises CallerError as `mask` does.
        """
        if self._goes_on(token_id):
            return None
        allowed = self._computed()
        if allowed is not None:
            return allowed
        self._begin_again()  # a lexer that was full knew nothing of the token
        return None if self._goes_on(token_id) else self.mask()

    def mask(self) -> Allowed:
        """What may follow. Raises CallerError with the library's words where it can't tell.

        Only a fresh matcher's failure counts: another's lexer may be full of what was drafted and of other sequences,
        on which an answer must not depend. A fresh one has room for any mask, so that its failure is the parser's, or
        that of a costly grammar.
        """
        allowed = self._computed()
        if allowed is None:
            self._begin_again()
            allowed = self._computed()
        if allowed is None:
            failure = words_of(self._matcher.get_error())
            self._begin_again()
            raise CallerError(failure)
        return allowed

    def take(self, token_id: int) -> None:
        """Go on to after a token that a mask allows, no end token."""
        self._matcher.consume_token(token_id)  # a failure stays in the matcher, and the next mask finds it
        self._taken.append(token_id)

    def go_back(self) -> None:
        """To after the emitted tokens."""
        self._forget(len(self._taken))

    def advance(self, token_ids: Sequence[int]) -> None:
        """Tokens were emitted, the end token not among them."""
        num_taken = num_leading_equal(self._taken, token_ids)
        self._forget(len(self._taken) - num_taken)
        self._emitted.extend(token_ids)
        self._taken.clear()
        if num_taken < len(token_ids):
            self._matcher.consume_tokens(list(token_ids[num_taken:]))  # of a failure as in `take`

    def _goes_on(self, token_id: int) -> bool:
        """Whether a token may follow for sure, and was taken. A full lexer is found out by taking it."""
        if self._grammar.is_costly or token_id in self._grammar.eos_token_ids:
            return False
        forced = self._matcher.compute_ff_tokens()
        if (forced and forced[0] != token_id) or self._matcher.try_consume_tokens([token_id]) != 1:
            return False
        self._taken.append(token_id)
        return True

    def _computed(self) -> Allowed | None:
        """The matcher's mask, None where it has failed."""
        mask = _mask(self._matcher, self._grammar.mask_size)
        return None if self._matcher.is_error() else mask[: self._grammar.vocab_size]

    def _forget(self, num_tokens: int) -> None:
        if num_tokens:
            del self._taken[-num_tokens:]
            if not self._matcher.rollback(num_tokens):
                self._begin_again()

    def _begin_again(self) -> None:
        """A matcher that failed never recovers."""
        self.beginning = self._grammar.lexers.fresh()
        self._matcher = self.beginning.deep_copy()
        self._matcher.consume_tokens([*self._emitted, *self._taken])


def words_of(error: str) -> str:
    """The library's message without its state dump."""
    return error.split("\n<non-verbose/>")[0].strip()[:1000]


def _mask(matcher: LLMatcher, size: int) -> Allowed:
    bits = np.zeros((size + 31) // 32, dtype=np.int32)
    matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
    return np.unpackbits(bits.view(np.uint8), bitorder="little", count=size).view(np.bool_)
