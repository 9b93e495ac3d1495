"""The ledger in C++ keeps the accounts that the one in Python keeps: every choice and every probability, bit by bit."""

from __future__ import annotations

import gc
import random
import weakref
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowsprit_engine.native import lookup_library
from bowsprit_engine.speculation import ledgers
from bowsprit_engine.speculation.drafters.base import Draft
from bowsprit_engine.speculation.ledger_in_cpp import LedgerInCpp
from bowsprit_engine.speculation.ledger_in_python import LedgerInPython
from bowsprit_engine.speculation.pool import DrafterPool
from bowsprit_policy.wire import DrafterState, DrafterType
from speculation.pool_drafters import head, sequence

TYPES = {
    "ngram": DrafterType.NGRAM,
    "suffix": DrafterType.SUFFIX,
    "head": DrafterType.HEAD,
    "small": DrafterType.MODEL,
}
PRICES = [0.002 * 1.15**n for n in range(60)]  # tokens, up to 8


class Diced:
    """Says what its dice say, of three tokens, as sure as they say; the same to whoever asks about the same text."""

    reason = ""
    revision = None

    def __init__(self, name, seed):
        self.name, self.type, self.state = name, TYPES[name], DrafterState.ACTIVE
        self.seed, self.seconds = seed, 0.0

    def propose(self, contexts):
        self.seconds += 1e-4 * len(contexts) + (2e-3 if self.name in ("head", "small") else 0.0)
        return [self._one(context) for context in contexts]

    def _one(self, context):
        dice = random.Random(f"{self.seed} {self.name} {context.token_ids} {context.ahead}")
        length = dice.choice([0, 1, 2, context.max_draft_tokens])
        tokens = tuple(dice.choice([1, 1, 1, 2, 3]) for _ in range(min(length, context.max_draft_tokens)))
        if dice.random() < 0.2:
            return Draft(token_ids=tokens)
        sure = [dice.choice([0.0, 0.3, 0.7, 0.99, 1.0, 1.5, float("nan"), dice.random()]) for _ in tokens]
        return Draft(token_ids=tokens, confidences=tuple(sure))

    def forget(self, request_id):
        pass


def overheard(ledger, heard):
    """What a drafter is worth asking for is told at other prices too, or a difference would hide behind one price."""
    due = ledger.due

    def at_all_prices(slot, indices, *, price):
        heard.extend((slot, limit, [*due(slot, indices, price=limit)]) for limit in PRICES)
        return due(slot, indices, price=price)

    ledger.due = at_all_prices


class Service:
    """Two pools that are asked and told the same, by ledgers of either kind."""

    def __init__(self, seed, names):
        self.dice, self.num_begun, self.running, self.pools, self.heard = random.Random(seed), 0, [], [], ([], [])
        for ledger, heard in zip((LedgerInPython, LedgerInCpp), self.heard, strict=True):
            drafters, ticks = [Diced(name, seed) for name in names], count()
            pool = DrafterPool(
                drafters,
                vocab_size=10,
                # Whatever is done between two looks at the clock takes a while: handling has a price too.
                clock=lambda drafters=drafters, ticks=ticks: sum(d.seconds for d in drafters) + 2e-5 * next(ticks),
                ledger=ledger,
            )
            overheard(pool.state.ledger, heard)
            self.pools.append(pool)
        self.names = names

    def both(self, ask):
        of_python, of_cpp = (ask(pool) for pool in self.pools)
        assert of_cpp == of_python
        of_python_s, of_cpp_s = ([(slot, limit, sorted(due)) for slot, limit, due in heard] for heard in self.heard)
        assert of_cpp_s == of_python_s
        for heard in self.heard:
            heard.clear()
        return of_python

    def step(self):
        dice, batch = self.dice, len(self.running)
        caps = [{name: dice.choice([0, 0, 1, 3, 6]) for name in self.names} for _ in self.running]
        watch = [dice.choice([0, 0, 4]) for _ in self.running]
        forced = [dice.choice([(), (), (), (1,), (1, 2)]) for _ in self.running]
        bound = [index for index in range(batch) if dice.random() < 0.1]
        row_share = dice.choice([0.0, 0.02, 0.05, dice.random() / max(1, batch)])
        report = self.both(
            lambda pool: pool.draft(self.running, caps, watch=watch, forced=forced, bound=bound, row_share=row_share)
        )
        kept = [proposal.cut(dice.randrange(len(proposal.token_ids) + 1)) for proposal in report.proposals]
        if dice.random() < 0.9:
            self.both(lambda pool: pool.grant(self.running, kept))
        for one, proposal in zip(self.running, report.proposals, strict=True):
            one.token_ids.extend(proposal.token_ids[: dice.randrange(8)] if dice.random() < 0.7 else ())
            one.token_ids.append(dice.choice([1, 1, 2, 3]))
            if dice.random() < 0.95:
                self.both(lambda pool, one=one: [*pool.learn(one)])
        self.both(lambda pool: pool.note_step(0.01 + 0.001 * batch))

    def run(self, moves):
        for kind in moves:
            if kind == "begin" and len(self.running) < 9:
                self.num_begun += 1
                self.running.append(sequence(f"{self.num_begun}"))
            elif kind == "end" and self.running:
                ended = self.running.pop(self.dice.randrange(len(self.running)))
                ended.token_ids.extend([1] * self.dice.randrange(3))
                self.both(lambda pool, ended=ended: [*pool.forget(ended)])
            elif kind == "swap":
                name = self.dice.choice(self.names)
                self.both(lambda pool, name=name: pool.begin_revision(name))
            elif kind == "step" and self.running:
                self.step()


moves = st.lists(st.sampled_from(["begin", "begin", "end", "swap", *["step"] * 8]), max_size=80)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([["ngram", "suffix", "head"], ["suffix", "head", "small"]]), moves)
def test_every_report_and_every_verdict_is_that_of_python(seed, names, moves):
    """Of random batches, caps, drafts, prices, grants and texts; also of what is watched, forced, bound and swapped."""
    Service(seed, names).run(moves)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_service_is_weighed_alike(seed):
    """Counts that are worth something, requests that come and go, numbers that are used again."""
    dice = random.Random(seed)
    service = Service(seed, ["ngram", "suffix", "head", "small"])
    service.run(["begin"] * 4 + dice.choices(["step", "begin", "end", "swap"], [80, 6, 5, 1], k=600))

    assert service.num_begun > 8


def test_a_pool_keeps_its_ledger_no_longer_than_itself():
    """Its memory in C++ goes with it."""
    pool = DrafterPool([head()], vocab_size=10, ledger=LedgerInCpp)
    is_freed = pool.state.ledger._free
    pool.draft([sequence("a")], [{"head": 2}])
    gone = weakref.ref(pool)
    del pool
    gc.collect()

    assert gone() is None
    assert not is_freed.alive


def test_what_is_cut_off_is_refused():
    """A message of fewer words than it says is a mistake here, and no crash."""
    ledger = LedgerInCpp([head()])
    ledger._untold.extend((0, 0, 0, 5, 1))

    with pytest.raises(RuntimeError, match="a message of 5 words where 1 are left"):
        ledger._tell_all()


def test_without_a_library_python_weighs_drafts_and_says_so(monkeypatch, tmp_path, caplog):
    """A slower service, not none."""
    assert ledgers.best_ledger() is LedgerInCpp
    monkeypatch.setattr(lookup_library, "search_path", lambda libraries: (tmp_path,))
    for cached in (lookup_library.library, ledgers.best_ledger):
        cached.cache_clear()
    try:
        assert ledgers.best_ledger() is LedgerInPython
        assert f"no libbowsprit_lookup.so in {tmp_path}" in caplog.text
    finally:
        for cached in (lookup_library.library, ledgers.best_ledger):
            cached.cache_clear()
