"""For which of a step's sequences a costly drafter is asked, and for how many tokens.

Its call is one for all of them: so much for asking at all, so much for each token, and little for one sequence more.
Decides for the batch: of every length the sequences to which a draft would bring more than the best one that they have,
and of the lengths that with the most tokens beyond what the batch would emit while the call takes its time. Pure;
refuses to know where gains and prices come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One sequence. `gains[n - 1]`: tokens that a draft of n would bring, falling short of none; `had`: brought anyway.

    `gains` is as long as the sequence may be drafted.
    """

    index: int
    gains: Sequence[float]
    had: float

    def added(self, tokens: int) -> float:
        """By a draft of at most so many tokens."""
        return self.gains[min(tokens, len(self.gains)) - 1] - self.had


def whom_to_ask(
    wishes: Sequence[Wish],
    *,
    call: Callable[[int], float],  # of a step's time, by tokens
    each: float,  # of a step's time, what a draft takes beside the call
    step_tokens: float,  # that the step brings without these drafts
    at_least: int = 0,  # tokens of a call that is made in any case, for others
) -> dict[int, int]:
    """Tokens by index, of whom is asked for; all of one length, but for those that may have fewer."""
    best: tuple[float, int, list[Wish]] = (0.0, 0, [])
    made = call(at_least) if at_least else 0.0
    for tokens in range(1, max((len(wish.gains) for wish in wishes), default=0) + 1):
        added = [(wish.added(tokens), wish) for wish in wishes]
        worth = [(more, wish) for more, wish in added if more > each * (step_tokens + more)]
        brought = sum([more for more, _ in worth])
        spent = max(0.0, call(max(tokens, at_least)) - made) + each * len(worth)
        net = brought - spent * (step_tokens + brought)
        if net > best[0]:
            best = (net, tokens, [wish for _, wish in worth])
    _, tokens, asked = best
    return {wish.index: min(tokens, len(wish.gains)) for wish in asked}
