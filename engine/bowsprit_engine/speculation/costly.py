"""For which of a step's sequences a costly drafter is asked, and for how many tokens.

Its call is one for all of them: so much for asking at all, so much for each token, and little for one sequence more.
Decides for the batch: of every length the sequences to which a draft would add anything, and of the lengths that with
the most tokens beyond what the batch would emit while the call takes its time. Pure; refuses to know where gains and
prices come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One sequence. `added[n - 1]`: tokens that a draft of n is expected to add; as long as it may be drafted."""

    index: int
    added: Sequence[float]

    def of(self, tokens: int) -> float:
        """By a draft of at most so many tokens."""
        return self.added[min(tokens, len(self.added)) - 1]


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
    longest = max((len(wish.added) for wish in wishes), default=0)
    if sum([wish.added[-1] for wish in wishes]) <= step_tokens * max(0.0, call(max(1, at_least)) - made):
        return {}  # no length pays for the shortest call
    for tokens in range(1, longest + 1):
        added = [(wish.of(tokens), wish) for wish in wishes]
        worth = [(more, wish) for more, wish in added if more > each * (step_tokens + more)]
        brought = sum([more for more, _ in worth])
        spent = max(0.0, call(max(tokens, at_least)) - made) + each * len(worth)
        net = brought - spent * (step_tokens + brought)
        if net > best[0]:
            best = (net, tokens, [wish for _, wish in worth])
    _, tokens, asked = best
    return {wish.index: min(tokens, len(wish.added)) for wish in asked}
