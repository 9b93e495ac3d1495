"""What the suffix drafter says, against its definition written out plainly: every place and every vote."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.speculation.confidence import Rate
from bowsprit_engine.speculation.drafters.answers import RecentAnswers
from bowsprit_engine.speculation.drafters.base import DraftContext
from bowsprit_engine.speculation.drafters.ngram import OwnContext, belief
from bowsprit_engine.speculation.drafters.suffix import SuffixDrafter
from bowsprit_engine.speculation.drafters.suffix_in_cpp import SuffixInCpp
from bowsprit_engine.speculation.drafters.suffix_in_python import (
    KEEP,
    LEAD,
    LEAN,
    LEAST_SURVIVAL,
    LONGEST_MATCH,
    SHORTEST_MATCH,
    SuffixInPython,
)


def matching(source, end, text):
    """Tokens before `end` that equal the last ones of `text`."""
    length = 0
    while length < min(LONGEST_MATCH, end, len(text)) and source[end - 1 - length] == text[-1 - length]:
        length += 1
    return length


class Definition:
    """One tenant's look-up. A source's word is (source, token, match, share of the votes)."""

    def __init__(self):
        self.answers, self.own, self.answer, self.rates = RecentAnswers(max_tokens=10_000), {}, {}, {}
        self.learned, self.awaited = {}, {}

    def learn(self, name, tokens, num_prompt):
        if name not in self.own:
            self.own[name] = OwnContext(len(tokens), shortest=SHORTEST_MATCH)
            self.answer[name] = self.answers.begin("")
            self.learned[name], self.awaited[name] = max(0, num_prompt - LEAD), []
        while self.awaited[name] and self.awaited[name][0][0] < len(tokens):
            index, drafted, cases = self.awaited[name].pop(0)
            for case, said in cases:
                self.rates.setdefault(case, Rate()).count(matched=said == tokens[index], keep=KEEP)
            if drafted != tokens[index]:
                self.awaited[name] = []
        self.answers.extend(self.answer[name], tokens[self.learned[name] :])
        self.learned[name] = len(tokens)

    def propose(self, name, tokens, count):
        text, drafted, survival, awaited = list(tokens), [], 1.0, []
        start = self.own[name].start(tokens)
        own = None if start is None else (start.source, int(start.match))
        places = self.found(name, text)
        while len(drafted) < count and survival >= LEAST_SURVIVAL:
            said = [] if own is None else [("own", text[own[0]], own[1], 1.0)]
            votes = {}
            for answer, index, match in places:
                votes.setdefault(answer.token_ids[index], []).append(match)
            weights = {token: sum((1 + match) ** 2 for match in matches) for token, matches in votes.items()}
            if weights:
                token = next(token for token in weights if weights[token] == max(weights.values()))
                said.append(("answers", token, max(votes[token]), weights[token] / sum(weights.values())))
            if not said:
                break
            cases = [(self.case(one, said), one) for one in said]
            sureness, token = max((self.sureness(case, one), one[1]) for case, one in cases)
            survival *= sureness
            awaited.append((len(text), token, [(case, one[1]) for case, one in cases]))
            drafted.append((token, sureness))
            text.append(token)
            if own is not None and said[0][1] == token:
                own = (own[0] + 1, own[1] + 1)
            else:
                found = self.own[name].index.find(text)
                own = None if found is None else (found, SHORTEST_MATCH)
            places = [(a, i + 1, m + 1) for a, i, m in places if a.token_ids[i : i + 1] == [token]]
            places = [place for place in places if place[1] < len(place[0].token_ids)] or self.found(name, text)
        if not self.awaited[name]:
            self.awaited[name] = awaited
        return drafted

    def found(self, name, text):
        places = [(answer, i, matching(answer.token_ids, i, text)) for answer, i in self.answers.find("", text)]
        return [(a, i, m) for a, i, m in places if a is not self.answer[name] and m and i < len(a.token_ids)]

    def case(self, one, said):
        others = [other[1] == one[1] for other in said if other is not one]
        return one[0], one[2].bit_length(), int(one[3] * 4), *others

    def sureness(self, case, one):
        known = self.rates.get(case, Rate())
        return (known.matched + LEAN * belief(min(one[2], 16)) * one[3]) / (known.judged + LEAN)


texts = st.lists(st.integers(0, 2), min_size=12, max_size=40)


@pytest.mark.parametrize("look_up", [SuffixInPython, SuffixInCpp])
@settings(max_examples=60, deadline=None)
@given(all_texts=st.lists(texts, min_size=2, max_size=5), count=st.integers(1, 20), stride=st.integers(1, 4))
def test_drafts_and_their_confidences_are_those_of_the_definition(look_up, all_texts, count, stride):
    """Of several sequences that run side by side and after one another, however many tokens come at a time."""
    drafter, definition = SuffixDrafter(name="suffix", look_up=look_up), Definition()
    for length in range(6, 40, stride):
        for number, text in enumerate(all_texts):
            tokens, name = text[:length], f"{number}"
            context = DraftContext(
                request_id=name,
                token_ids=tokens,
                hidden=None,
                max_draft_tokens=count,
                seed=0,
                temperature=0.0,
                num_prompt_tokens=5,
            )
            drafter.learn(context)
            definition.learn(name, tokens, 5)
            (draft,) = drafter.propose([context])
            assert list(zip(draft.token_ids, draft.confidences, strict=True)) == definition.propose(name, tokens, count)


def test_two_tenants_whose_runs_of_tokens_share_a_key_share_nothing(monkeypatch):
    """A key is 64 bits of a hash: what a place says is believed only if it is the asking tenant's."""
    monkeypatch.setattr("bowsprit_engine.speculation.drafters.answers.hash", lambda _: 0, raising=False)
    drafter = SuffixDrafter(name="suffix", look_up=SuffixInPython)

    def asked(tenant):
        return DraftContext(
            request_id=tenant, token_ids=[5, 1], hidden=None, max_draft_tokens=4, seed=0, temperature=0.0, tenant=tenant
        )

    drafter.learn(replace(asked("one"), request_id="before", token_ids=[5, 1, 2, 3, 4]))
    drafter.forget("before")

    assert [draft.token_ids for draft in drafter.propose([asked("one"), asked("another")])] == [(2, 3, 4), ()]
