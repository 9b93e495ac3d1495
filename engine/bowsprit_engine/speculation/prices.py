"""What drafting costs: measured seconds, told in tokens of the step that waits for it.

Decides what a price is made of. Look-up is priced by the sequence that is asked for; a costly drafter by the call,
which takes so much whatever is asked and so much for each token, and is shared by all whom it drafts for; what the pool
does with a draft (choosing, composing, scoring) is part of either. One slow answer counts as a few times what was known
at most: it shuts nobody up. Refuses to know what drafts are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from bowsprit_engine.speculation.drafters.base import Drafter
from bowsprit_policy.wire import COUNT_BASED

SECONDS_KEEP = 0.9  # of a draft's seconds and of a step's, per step
CALL_KEEP = 0.95  # of the record of a costly drafter's calls, per call
PROPORTIONAL = 0.02  # variance of lengths that a call in proportion to its tokens weighs as much as
MOST_GROWTH = 4.0  # of measured seconds, in one measurement
MOST_PRICE = 0.1  # tokens, of one look-up


@dataclass(slots=True)
class CallSeconds:
    """Of one costly drafter's calls, a line over their length: least squares, the latest calls weighing most.

    Calls of one length only don't tell the line: it goes through nothing then, so that shorter ones are tried.
    """

    _weight: float = 0.0
    _tokens: float = 0.0  # means, as the next ones
    _seconds: float = 0.0
    _squares: float = 0.0  # of tokens
    _products: float = 0.0  # tokens x seconds

    def add(self, tokens: int, seconds: float) -> None:
        """A call for at most `tokens` of each sequence."""
        if self._weight:
            seconds = min(seconds, MOST_GROWTH * self.of(tokens))
        self._weight = self._weight * CALL_KEEP + 1.0
        share = 1.0 / self._weight
        self._tokens += share * (tokens - self._tokens)
        self._seconds += share * (seconds - self._seconds)
        self._squares += share * (tokens * tokens - self._squares)
        self._products += share * (tokens * seconds - self._products)

    def of(self, tokens: int) -> float:
        """Expected; 0 before any was made."""
        if not self._weight:
            return 0.0
        variance = max(0.0, self._squares - self._tokens**2)
        covariance = self._products - self._tokens * self._seconds
        in_proportion = self._seconds / self._tokens
        per_token = (covariance + PROPORTIONAL * in_proportion) / (variance + PROPORTIONAL)
        per_token = min(max(0.0, per_token), in_proportion)  # else some call would take less than nothing
        return self._seconds + per_token * (tokens - self._tokens)


class Prices:
    """Of an engine's drafters. `clock`: seconds, from any beginning; a replay may state prices by it instead."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: dict[str, CallSeconds] = {}  # of costly drafters
        self._look_ups: dict[str, float] = {}  # seconds per sequence
        self._called: set[str] = set()
        self._asked_seconds = 0.0  # of all calls
        self._quiet_step: float | None = None
        self._contended_step: float | None = None
        self._handling = _Handling()  # of any draft
        self._costly_handling = _Handling()  # of a costly drafter's, beyond that
        self._span, self._costly_span = _Span(self, self._handling), _Span(self, self._costly_handling)
        self.tokens_per_sequence = 1.0  # that steps are expected to emit

    def note_step(self, seconds: float, *, is_contended: bool) -> None:
        """Contended ones count where there are no others: where it is never quiet drafting isn't free either."""
        if is_contended:
            self._contended_step = _moved(self._contended_step, seconds)
        else:
            self._quiet_step = _moved(self._quiet_step, seconds)

    def note_expected(self, tokens: float, *, sequences: int) -> None:
        """So many is a step of so many sequences expected to emit."""
        if sequences == 0:
            return
        self.tokens_per_sequence = _moved(self.tokens_per_sequence, tokens / sequences)

    @property
    def step_seconds(self) -> float | None:
        """Of a step now, as far as any was measured."""
        return self._contended_step if self._quiet_step is None else self._quiet_step

    def forget(self, name: str) -> None:
        """The drafter was swapped: its price is unknown."""
        self._calls.pop(name, None)
        self._look_ups.pop(name, None)
        self._called.discard(name)

    def begin_step(self) -> None:
        """The last step's drafts are handled."""
        self._handling.begin_step()
        self._costly_handling.begin_step()

    def handling(self, *, costly: bool = False) -> AbstractContextManager[None]:
        """What is done within, but for asking, is part of the price of every draft, or of a costly drafter's.

        Not to be nested.
        """
        return self._costly_span if costly else self._span

    @property
    def own_seconds(self) -> float:
        """By the clock, but for asking."""
        return self._clock() - self._asked_seconds

    @contextmanager
    def asking(self, drafter: Drafter, *, sequences: int, tokens: int) -> Iterator[list[float]]:
        """What is done within is one call for so many sequences, at most `tokens` each; its seconds are appended."""
        begin, taken = self._clock(), list[float]()
        yield taken
        seconds = self._clock() - begin
        taken.append(seconds)
        self._asked_seconds += seconds
        self._handling.num_drafts += sequences
        name, is_costly = drafter.name, drafter.type not in COUNT_BASED
        self._costly_handling.num_drafts += sequences * is_costly
        if name not in self._called:  # a first call may touch cold weights: it says nothing of the next
            self._called.add(name)
        elif not is_costly:
            each, known = seconds / sequences, self._look_ups.get(name)
            self._look_ups[name] = _moved(known, each if known is None else min(each, MOST_GROWTH * known))
        else:
            self._calls.setdefault(name, CallSeconds()).add(tokens, seconds)

    def look_up(self, drafter: Drafter, *, batch: int) -> float:
        """Tokens that asking a count-based drafter for one of `batch` sequences costs, one each being a step's."""
        return min(MOST_PRICE, batch * self._look_up_share(drafter))

    def share_of_look_up(self, drafters: Iterable[Drafter], *, batch: int) -> float:
        """What asking every count-based one of them for all takes of a step."""
        return batch * sum(self._look_up_share(drafter) for drafter in drafters if drafter.type in COUNT_BASED)

    def calls(self, drafter: Drafter, *, most: int) -> list[float]:
        """Of a step, what a costly drafter's calls for drafts of 1, 2, … `most` take, for however many sequences."""
        calls = self._calls.get(drafter.name)
        if calls is None:
            return [0.0] * most
        return [self._share(calls.of(tokens)) for tokens in range(1, most + 1)]

    def alone(self, drafter: Drafter, tokens: int) -> float:
        """Of a step, what asking for so many tokens of one sequence takes. 0 before any such question."""
        if drafter.type in COUNT_BASED:
            return self._look_up_share(drafter)
        return self.calls(drafter, most=tokens)[-1] + self.handling_share

    @property
    def handling_share(self) -> float:
        """Of a step, what the pool takes for one draft of a costly drafter beside the call."""
        return self._share(self._handling.seconds_per_draft + self._costly_handling.seconds_per_draft)

    def _look_up_share(self, drafter: Drafter) -> float:
        seconds = self._look_ups.get(drafter.name)
        return 0.0 if not seconds else self._share(seconds + self._handling.seconds_per_draft)

    def _share(self, seconds: float) -> float:
        """Nothing while no step was timed."""
        step_seconds = self.step_seconds
        return seconds / step_seconds if step_seconds else 0.0


@dataclass(slots=True)
class _Handling:
    """What the pool does with drafts that drafters made."""

    seconds_per_draft: float = 0.0
    seconds: float = 0.0  # of the step under way, as the next
    num_drafts: int = 0  # also empty ones

    def begin_step(self) -> None:
        """What the last step took without any draft is nobody's price."""
        if self.num_drafts:
            latest = self.seconds / self.num_drafts
            known = self.seconds_per_draft or latest
            self.seconds_per_draft = _moved(known, min(latest, MOST_GROWTH * known))
        self.seconds, self.num_drafts = 0.0, 0


class _Span(AbstractContextManager[None]):
    """From entering to leaving it, as handling of drafts. One object for all, since steps enter it a dozen times."""

    def __init__(self, prices: Prices, handling: _Handling) -> None:
        self._prices = prices
        self._handling = handling
        self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = self._prices.own_seconds

    def __exit__(self, *_: object) -> None:
        self._handling.seconds += self._prices.own_seconds - self._begin


def _moved(old: float | None, new: float) -> float:
    return new if old is None else old * SECONDS_KEEP + new * (1 - SECONDS_KEEP)
