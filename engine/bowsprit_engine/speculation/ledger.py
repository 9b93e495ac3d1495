"""The seam of what the pool keeps of drafts: those that wait for the text, what became of others, what is believed.

One step at a time: it begins, drafts are taken in as they are made, and one proposal per sequence comes of them. Two
keep the same accounts, to the bit: ledger_in_python.py is the definition, ledger_in_cpp.py serves where its library is
built. Refuses to know who is asked when and what that costs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.speculation.drafters.base import Draft, Drafter
from bowsprit_engine.speculation.proposal import Proposal
from bowsprit_engine.speculation.question import Question
from bowsprit_engine.speculation.scoring import Watched


class Answers(NamedTuple):
    """One drafter's, of the step: a draft for each index of a sequence."""

    drafter: Drafter
    drafts: Mapping[int, Draft]


class CallPrice(NamedTuple):
    """Of a costly drafter, in the step's time: `call[n]`, one for drafts of n tokens; `each`, a draft beside it."""

    call: Sequence[float]
    each: float


class Ledger(Protocol):
    """Sequences are named by their index in the step under way. A slot is a drafter's name, with AHEAD or without."""

    def begin_step(self, question: Question) -> None:
        """Everything until the next one is about its sequences."""

    def due(self, slot: str, indices: Sequence[int], *, price: float) -> Collection[int]:
        """Those for which asking a count-based drafter was worth the price, in tokens."""

    def not_waiting(self, slot: str, indices: Sequence[int]) -> Sequence[int]:
        """Those without a draft of this slot that waits for the text."""

    def watch(self, answers: Answers) -> None:
        """Of one that is held at 0: scored, and never proposed."""

    def take(self, answers: Sequence[Answers]) -> None:
        """Drafts to choose from: from now on the best of each sequence so far. Each waits for the text."""

    def whom_to_ask(self, drafter: Drafter, caps: Mapping[int, int], price: CallPrice) -> Mapping[int, int]:
        """A costly drafter. Most tokens by index, of whom is asked for; in the order of indices."""

    def open_ends(self) -> Mapping[int, tuple[int, ...]]:
        """The best drafts so far that are a costly drafter's."""

    def follow(self, answers: Answers) -> Collection[int]:
        """What a count-based one says after these; for whom it had anything to say."""

    def proposals(self) -> tuple[Proposal, ...]:
        """What is forced, the best draft, and what follows it, of every sequence of the step."""

    def is_waiting(self) -> bool:
        """Whether any draft for the step's sequences waits for the text. After `proposals`."""

    def grant(self, sequences: Sequence[LiveSequence], proposals: Sequence[Proposal]) -> None:
        """The step verifies this."""

    def waits_for(self, sequence: LiveSequence) -> bool:
        """Whether any draft waits for its text."""

    def learn(self, sequence: LiveSequence) -> Sequence[Watched]:
        """It is waited for and has new tokens: judge by them. What was watched and is decided comes back."""

    def forget(self, sequence: LiveSequence) -> Sequence[Watched]:
        """It ended, its last tokens are there: judge, and keep nothing of it."""

    def void(self, slots: Iterable[str]) -> None:
        """What is known of drafts in these is void, and none of them waits any more."""
