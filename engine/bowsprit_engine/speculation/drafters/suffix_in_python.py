"""Look-up in the sequence's own text and in the service's recent answers, token by token whichever is surer.

Decides like a branch predictor's tournament: at each position the own context says how its copy goes on, the recent
answers vote (each place by how long it matches), and the source whose word held more often in such a case is believed
(Oliaro et al., "SuffixDecoding", keep a tree of answers with counts; here places are compared on demand, so that
learning and forgetting a token is O(1)). This is the definition of look-up, which native/lookup follows to the bit, and
serves where that isn't built. Refuses to know torch, the target, and whose answers may be shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal, NamedTuple

from bowsprit_engine.speculation.confidence import Rate
from bowsprit_engine.speculation.drafters.answers import BYTES_PER_TOKEN, Answer, RecentAnswers
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.ngram import (
    LONGEST_COUNTED,
    OwnContext,
    belief,
    match_before,
)

Source = Literal["own", "answers"]
Others = Literal["silent", "same", "different"]  # what the other source said of the same place

LEAD = 8  # tokens of the prompt before an answer, so that its beginning is found too: the template's, mostly
SHORTEST_MATCH = 1  # token: the votes and the record of such cases say how little it is worth
LONGEST_MATCH = 32  # tokens, as far as they are compared
BYTES_PER_LIVE_TOKEN = 720  # of a sequence that runs, prompt included: 663 to 673 measured
READ_AT_ONCE = 16  # tokens of places that agree
LEAST_SURVIVAL = 0.03  # P(a token and all before it match), below which no row is worth the looking up
KEEP = 0.998  # of what is known of such cases, per case
LEAN = 4.0  # cases' worth of belief has what is believed beforehand
BELIEFS = tuple(belief(match) for match in range(LONGEST_COUNTED + 1))

# What tokens that were drafted alike have in common: who said them, the bucket of their match, quarters of the votes.
Case = tuple[Source, int, int, Others]
_BY_SURENESS = itemgetter(0, 1)
_Voter = tuple[list[int], int, int]  # an answer's tokens, the index of the next one, tokens that match before it


class Said(NamedTuple):
    """One source's next token. `match`: tokens before it that equal those before the place it was found at."""

    source: Source
    token_id: int
    match: int
    share: float


class Awaited(NamedTuple):
    """A drafted token, and of each source the rate of such cases and what it had said."""

    token_id: int
    said: tuple[tuple[Rate, int], ...]


@dataclass(slots=True, kw_only=True)
class Followed:
    """What is kept of one sequence. `awaited`: its drafted tokens from index `start` on, until they are judged.

    `num_learned`: tokens of the text that its answer holds, but for the prompt's beginning.
    """

    own: OwnContext
    answer: Answer
    num_learned: int
    start: int = 0
    awaited: list[Awaited] = field(default_factory=list)


class SuffixInPython:
    """A `LookUp`, with its own reading of who shares: `owner_of` names a context's tenant, or everybody."""

    bytes_per_token = BYTES_PER_TOKEN
    bytes_per_live_token = BYTES_PER_LIVE_TOKEN
    language = "in Python"

    def __init__(self, *, owner_of: Callable[[DraftContext], str], kept_tokens: int) -> None:
        self._owner_of = owner_of
        self._answers = RecentAnswers(max_tokens=kept_tokens)
        self._followed: dict[str, Followed] = {}
        self._rates: dict[Case, Rate] = {}

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        return [self._propose_one(context) for context in contexts]

    def learn(self, context: DraftContext) -> None:
        followed = self._follow(context)
        if followed.awaited:
            self._judge(followed, context.token_ids)
        self._answers.extend(followed.answer, context.token_ids[followed.num_learned :])
        followed.num_learned = len(context.token_ids)

    def forget(self, request_id: str) -> None:
        self._followed.pop(request_id, None)

    def _follow(self, context: DraftContext) -> Followed:
        followed = self._followed.get(context.request_id)
        if followed is None:
            followed = self._followed[context.request_id] = Followed(
                own=OwnContext(len(context.token_ids), shortest=SHORTEST_MATCH),
                answer=self._answers.begin(self._owner_of(context)),
                num_learned=max(0, context.num_prompt_tokens - LEAD),
            )
        return followed

    def _propose_one(self, context: DraftContext) -> Draft:
        followed = self._follow(context)
        walk = _Walk(context, followed, self._answers)
        tokens: list[int] = []
        confidences: list[float] = []
        awaited: list[Awaited] = []
        survival = 1.0
        while len(tokens) < context.max_draft_tokens and survival >= LEAST_SURVIVAL:
            words = walk.words()
            if not words:
                break
            believed = [self._believed(one, other) for one, other in zip(words, reversed(words), strict=True)]
            sureness, token_id, _ = max(believed, key=_BY_SURENESS)
            survival *= sureness
            tokens.append(token_id)
            confidences.append(sureness)
            awaited.append(Awaited(token_id, tuple([(rate, said_id) for _, said_id, rate in believed])))
            walk.push(token_id)
        if not context.ahead and not followed.awaited:
            followed.start, followed.awaited = len(context.token_ids), awaited
        return Draft(token_ids=tuple(tokens), confidences=tuple(confidences))

    def _believed(self, one: Said, other: Said) -> tuple[float, int, Rate]:
        """P(the said token comes), the token, and the rate of such cases. `other`: itself where it speaks alone.

        The rate leans on the length of the match and the votes; of no case yet, it says just these.
        """
        source, token_id, match, share = one
        others: Others = "silent" if other is one else "same" if other.token_id == token_id else "different"
        case = (source, match.bit_length(), int(share * 4), others)
        rate = self._rates.get(case)
        if rate is None:
            rate = self._rates[case] = Rate()
        beforehand = BELIEFS[match if match < LONGEST_COUNTED else LONGEST_COUNTED] * share
        return rate.leaning(beforehand, lean=LEAN), token_id, rate

    def _judge(self, followed: Followed, token_ids: Sequence[int]) -> None:
        """Every source, at every position up to the first wrong draft: until there, what it said was of this text."""
        for offset, awaited in enumerate(followed.awaited):
            index = followed.start + offset
            if index >= len(token_ids):
                followed.start, followed.awaited = index, followed.awaited[offset:]
                return
            for rate, token_id in awaited.said:
                rate.count(matched=token_id == token_ids[index], keep=KEEP)
            if awaited.token_id != token_ids[index]:
                break
        followed.awaited = []


class _Walk:
    """A draft under way: what both sources say of its next token."""

    def __init__(self, context: DraftContext, followed: Followed, answers: RecentAnswers) -> None:
        self._text = context.text
        self._followed = followed
        self._answers = answers
        self._own: Said | None = None
        self._own_source = 0
        start = followed.own.start(context.token_ids, context.ahead)
        if start is not None:
            self._copy_from(start.source, int(start.match))
        self._poll(self._found())

    def words(self) -> tuple[Said, ...]:
        """The own context's word and the answers', where they have one."""
        votes = self._votes()
        if votes is None:
            return () if self._own is None else (self._own,)
        return (votes,) if self._own is None else (self._own, votes)

    def _votes(self) -> Said | None:
        """Each place votes by how long it matches."""
        if self._agreed:
            return Said("answers", self._agreed[self._ahead], self._longest + self._ahead, 1.0)
        if not self._voters:
            return None
        votes: dict[int, int] = {}
        for known, index, match in self._voters:
            votes[known[index]] = votes.get(known[index], 0) + (1 + match) ** 2
        token_id = max(votes, key=votes.__getitem__)
        longest = max([match for known, index, match in self._voters if known[index] == token_id])
        return Said("answers", token_id, longest, votes[token_id] / sum(votes.values()))

    def push(self, token_id: int) -> None:
        """The draft goes on with this token."""
        self._text.append(token_id)
        own = self._own
        if own is not None and own.token_id == token_id:
            self._copy_from(self._own_source + 1, own.match + 1)
        else:
            found = self._followed.own.index.find(self._text)
            self._own = None
            if found is not None:
                self._copy_from(found, SHORTEST_MATCH)
        ahead = self._ahead
        if ahead + 1 < len(self._agreed) and self._agreed[ahead] == token_id:
            self._ahead += 1
            return
        voters = [
            (known, index + ahead + 1, match + ahead + 1)
            for known, index, match in self._voters
            if known[index + ahead] == token_id and index + ahead + 1 < len(known)
        ]
        self._poll(voters or self._found())

    def _poll(self, voters: list[_Voter]) -> None:
        """Read at once as far as all of them say the same."""
        self._voters = voters
        self._ahead = 0  # tokens of the draft since then
        self._longest = max([match for _, _, match in voters], default=0)
        self._agreed = _agreed(voters)

    def _copy_from(self, source: int, match: int) -> None:
        self._own_source = source
        self._own = Said("own", self._text[source], match, 1.0)

    def _found(self) -> list[_Voter]:
        text, own = self._text, self._followed.answer
        owner = own.owner
        places = self._answers.find(owner, text)
        if not places:
            return []
        last, before = text[-1], text[-2] if len(text) > 1 else None
        voters = []
        for answer, index in places:
            known = answer.token_ids
            # Two owners' runs of tokens may share a key.
            if answer is own or index >= len(known) or answer.owner != owner or known[index - 1] != last:
                continue
            is_longer = index > 1 and known[index - 2] == before
            match = match_before(known, index, text, most=LONGEST_MATCH) if is_longer else 1
            voters.append((known, index, match))
        return voters


def _agreed(voters: Sequence[_Voter]) -> list[int]:
    """The next tokens that all of them say, as far as they are read at once."""
    if not voters:
        return []
    known, index, _ = voters[0]
    if len(voters) == 1:
        return known[index : index + READ_AT_ONCE]
    first = known[index]
    if any(known[index] != first for known, index, _ in voters):
        return []
    agreed = []
    for said in zip(*[known[index : index + READ_AT_ONCE] for known, index, _ in voters], strict=False):
        if said.count(said[0]) < len(said):
            break
        agreed.append(said[0])
    return agreed
