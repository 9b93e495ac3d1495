"""Look-up in the sequence's own text and in the service's recent answers, token by token whichever is surer.

Decides like a branch predictor's tournament: at each position the own context says how its copy goes on, the recent
answers vote (each place by how long it matches), and the source whose word held more often in such a case is believed
(Oliaro et al., "SuffixDecoding", keep a tree of answers with counts; here places are compared on demand, so that
learning and forgetting a token is O(1)). Answers are shared within a tenant only, unless told otherwise: how fast a
text comes tells whether somebody was told it before. Refuses to know torch and the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bowsprit_engine.speculation.confidence import Rate
from bowsprit_engine.speculation.drafters.answers import Answer, Place, RecentAnswers
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.ngram import (
    LONGEST_COUNTED,
    SHORTEST_NGRAM,
    OwnContext,
    belief,
    continue_from,
    match_before,
)
from bowsprit_policy.wire import DrafterState, DrafterType

Sharing = Literal["tenant", "all"]
Source = Literal["own", "answers"]

KEPT_TOKENS = 100_000  # of recent answers, all tenants together
LEAD = 8  # tokens of the prompt before an answer, so that its beginning is found too: the template's, mostly
LONGEST_MATCH = 32  # tokens, as far as they are compared
LEAST_SURVIVAL = 0.03  # P(a token and all before it match), below which no row is worth the looking up
KEEP = 0.998  # of what is known of such cases, per case
LEAN = 4.0  # cases' worth of belief has what is believed beforehand


@dataclass(frozen=True, slots=True)
class Case:
    """What tokens that were drafted alike have in common. `others`: what the other source said of the same place."""

    source: Source
    match: int  # bucket
    share: int  # of the votes, in quarters
    others: Literal["silent", "same", "different"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One source's next token. `match`: tokens before it that equal those before the place it was found at."""

    source: Source
    token_id: int
    match: int
    share: float


@dataclass(frozen=True, slots=True)
class Awaited:
    """A drafted token, and what each source had said of its place."""

    token_id: int
    said: tuple[tuple[Case, int], ...]


@dataclass(slots=True, kw_only=True)
class Followed:
    """What is kept of one sequence. `awaited`: its drafted tokens from index `start` on, until they are judged."""

    own: OwnContext
    answer: Answer
    num_learned: int
    start: int = 0
    awaited: list[Awaited] = field(default_factory=list)


class SuffixDrafter:
    """Learns from every emitted token at once. Needs no training and costs microseconds."""

    type = DrafterType.SUFFIX

    def __init__(self, *, name: str, sharing: Sharing = "tenant", kept_tokens: int = KEPT_TOKENS) -> None:
        self.name = name
        self.state = DrafterState.ACTIVE
        self.reason = ""
        self.revision: str | None = None
        self._sharing = sharing
        self._answers = RecentAnswers(max_tokens=kept_tokens)
        self._followed: dict[str, Followed] = {}
        self._rates: dict[Case, Rate] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context; empty where neither source has anything to say."""
        return [self._propose_one(context) for context in contexts]

    def learn(self, context: DraftContext) -> None:
        """Take in what was emitted since the last call, and judge what was said of it."""
        followed = self._follow(context)
        self._judge(followed, context.token_ids)
        self._answers.extend(followed.answer, context.token_ids[followed.num_learned :])
        followed.num_learned = len(context.token_ids)

    def forget(self, request_id: str) -> None:
        """The sequence ended; its answer stays."""
        self._followed.pop(request_id, None)

    def _follow(self, context: DraftContext) -> Followed:
        followed = self._followed.get(context.request_id)
        if followed is None:
            answer = self._answers.begin(self._owner(context))
            begin = max(0, context.num_prompt_tokens - LEAD)
            own = OwnContext(len(context.token_ids))
            followed = Followed(own=own, answer=answer, num_learned=begin)
            self._followed[context.request_id] = followed
        return followed

    def _owner(self, context: DraftContext) -> str:
        return context.tenant if self._sharing == "tenant" else ""

    def _propose_one(self, context: DraftContext) -> Draft:
        followed = self._follow(context)
        walk = _Walk(context, followed, self._answers, self._owner(context))
        tokens: list[int] = []
        confidences: list[float] = []
        awaited: list[Awaited] = []
        survival = 1.0
        while len(tokens) < context.max_draft_tokens and survival >= LEAST_SURVIVAL:
            said = walk.said()
            if not said:
                break
            cases = [(case_of(one, said), one) for one in said]
            sureness, token_id = max((self._sureness(case, one), one.token_id) for case, one in cases)
            survival *= sureness
            tokens.append(token_id)
            confidences.append(sureness)
            awaited.append(Awaited(token_id, tuple((case, one.token_id) for case, one in cases)))
            walk.push(token_id)
        if not context.ahead and not followed.awaited:
            followed.start, followed.awaited = len(context.token_ids), awaited
        return Draft(token_ids=tuple(tokens), confidences=tuple(confidences))

    def _sureness(self, case: Case, said: Said) -> float:
        """P(the said token comes): the rate of such cases, leaning on the length of the match and the votes."""
        beforehand = belief(min(said.match, LONGEST_COUNTED)) * said.share
        rate = self._rates.get(case)
        return beforehand if rate is None else rate.leaning(beforehand, lean=LEAN)

    def _judge(self, followed: Followed, token_ids: Sequence[int]) -> None:
        """Every source, at every position up to the first wrong draft: until there, what it said was of this text."""
        for offset, awaited in enumerate(followed.awaited):
            index = followed.start + offset
            if index >= len(token_ids):
                followed.start, followed.awaited = index, followed.awaited[offset:]
                return
            for case, token_id in awaited.said:
                self._rates.setdefault(case, Rate()).count(matched=token_id == token_ids[index], keep=KEEP)
            if awaited.token_id != token_ids[index]:
                break
        followed.awaited = []


def case_of(one: Said, said: Sequence[Said]) -> Case:
    """Whose rate tells how far to believe it."""
    other = next((another for another in said if another is not one), None)
    others: Literal["silent", "same", "different"] = "silent"
    if other is not None:
        others = "same" if other.token_id == one.token_id else "different"
    return Case(one.source, one.match.bit_length(), int(one.share * 4), others)


class _Walk:
    """A draft under way: what both sources say of its next token."""

    def __init__(self, context: DraftContext, followed: Followed, answers: RecentAnswers, owner: str) -> None:
        self._text = context.text
        self._followed = followed
        self._answers = answers
        self._owner = owner
        start = followed.own.start(context.token_ids, context.ahead)
        self._own = None if start is None else self._own_at(start.source, int(start.match))
        self._places: list[tuple[Place, int]] = list(self._found())

    def said(self) -> list[Said]:
        """The own context's word and the answers', where they have one."""
        said = [] if self._own is None else [self._own[1]]
        votes: dict[int, float] = {}
        longest: dict[int, int] = {}
        for place, match in self._places:
            token_id = place.answer.token_ids[place.index]
            votes[token_id] = votes.get(token_id, 0.0) + (1.0 + match) ** 2
            longest[token_id] = max(longest.get(token_id, 0), match)
        if votes:
            token_id = max(votes, key=votes.__getitem__)
            share = votes[token_id] / sum(votes.values())
            said.append(Said(source="answers", token_id=token_id, match=longest[token_id], share=share))
        return said

    def push(self, token_id: int) -> None:
        """The draft goes on with this token."""
        own = self._own
        self._text.append(token_id)
        if own is not None and own[1].token_id == token_id:
            self._own = self._own_at(own[0] + 1, own[1].match + 1)
        else:
            found = self._followed.own.index.find(self._text)
            self._own = None if found is None else self._own_at(found, SHORTEST_NGRAM)
        self._places = [
            (Place(place.answer, place.index + 1), match + 1)
            for place, match in self._places
            if place.token_id == token_id and place.index + 1 < len(place.answer.token_ids)
        ]
        if not self._places:
            self._places = list(self._found())

    def _own_at(self, source: int, match: int) -> tuple[int, Said]:
        """The own context's word where it is copied from `source`."""
        token_id = continue_from(self._text, source, 1)[0]
        return source, Said(source="own", token_id=token_id, match=match, share=1.0)

    def _found(self) -> Iterator[tuple[Place, int]]:
        for place in self._answers.find(self._owner, self._text):
            # Two owners' runs of tokens may share a key.
            if place.answer is not self._followed.answer and place.answer.owner == self._owner:
                match = match_before(place.answer.token_ids, place.index, self._text, most=LONGEST_MATCH)
                if match > 0 and place.token_id is not None:
                    yield place, match
