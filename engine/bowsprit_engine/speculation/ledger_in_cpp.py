"""The ledger in C++ (native/lookup/ledger.cpp): a step's drafts in, choices and proposals out, in a handful of calls.

Decides what C++ is told, and when: what was emitted and granted is gathered and goes with the next step, or at once
where a drafter is watched. The definition, which every choice is equal to, is ledger_in_python.py. Refuses to know
torch.
"""

from __future__ import annotations

import ctypes
import weakref
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from ctypes import c_int64
from dataclasses import dataclass
from math import floor
from typing import Final

from bowsprit_engine.core.sequence import LiveSequence
from bowsprit_engine.native.lookup_library import library
from bowsprit_engine.speculation import advantage, asking, beliefs, confidence, scoring
from bowsprit_engine.speculation.drafters.base import Draft, Drafter
from bowsprit_engine.speculation.ledger import Answers, CallPrice
from bowsprit_engine.speculation.proposal import AHEAD, NOBODY, NOTHING, Proposal
from bowsprit_engine.speculation.question import Question
from bowsprit_engine.speculation.scoring import Watched
from bowsprit_policy.acceptance import PRIORS
from bowsprit_policy.wire import COUNT_BASED

INT: Final = "i"  # array's codes of C's types, as the next ones
DOUBLE: Final = "d"
FLAG: Final = "b"
GRANTED, EMITTED = 0, 1  # what is told of a sequence's tokens
MOST_UNTOLD = 4096  # words: a step that isn't drafted for ends no message

CONSTANTS = (  # in the order of beliefs.hpp
    0.5 ** (1 / confidence.HALF_LIFE_TOKENS),
    0.5 ** (1 / confidence.FORESIGHT_HALF_LIFE_TOKENS),
    0.5 ** (1 / advantage.HALF_LIFE_DRAFTS),
    confidence.FORTUNE_KEEP,
    asking.KEEP,
    asking.OVERALL_KEEP,
    confidence.LEAN,
    confidence.RAW_TRUST,
    confidence.WORD_LEAN,
    advantage.LEAN,
    advantage.DOUBT,
    asking.LEAN,
    scoring.PROMISE,
    beliefs.HOPELESS,
    beliefs.DEAR,
    beliefs.UNPROVEN,
)


@dataclass(slots=True, kw_only=True)
class _Followed:
    """A sequence by its number in C++, which knows its tokens up to index `num_told`, as far as it must.

    `is_waiting`: any draft may wait for the text; `is_watched`: one of a drafter that is held at 0.
    """

    number: int
    num_told: int = 0
    is_waiting: bool = False
    is_watched: bool = False


class LedgerInCpp:
    """A `Ledger`."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        """Raises WorldError where the library isn't built, MemoryError."""
        self._library = library()
        self._names = [NOBODY, AHEAD, *(slot for d in drafters for slot in (d.name, d.name + AHEAD))]  # by slot
        self._slots = {name: slot for slot, name in enumerate(self._names)}
        costly = [False, *(drafter.type not in COUNT_BASED for drafter in drafters)]
        priors = [beliefs.FORCED_PRIOR, *(PRIORS[drafter.type].match for drafter in drafters)]
        self._costly = frozenset(2 * place for place, is_one in enumerate(costly) if is_one)
        slots = range(len(self._names))
        constants, is_costly = array(DOUBLE, CONSTANTS), array(INT, [slot in self._costly for slot in slots])
        prior = array(DOUBLE, [priors[slot // 2] for slot in slots])
        told = (_address(constants), _address(is_costly), _address(prior), len(slots))
        self._handle = self._library.bowsprit_ledger_new(*told)
        if self._handle is None:
            raise MemoryError(f"no room for a ledger of {len(drafters)} drafters: {self._error()}")
        self._free = weakref.finalize(self, self._library.bowsprit_ledger_free, self._handle)
        self._followed: dict[str, _Followed] = {}
        self._free_numbers: list[int] = []
        self._untold = array(INT)
        self._begin(())

    def _begin(self, forced: Sequence[tuple[int, ...]]) -> None:
        self._forced = forced
        self._said: dict[int, Mapping[int, Draft]] = {}  # by slot
        self._best: tuple[array[int], array[int]] | None = None  # slots and lengths
        self._more: dict[int, tuple[int, tuple[int, ...]]] = {}  # slot and tokens
        self._num_offered = sum(map(len, forced))  # tokens

    def begin_step(self, question: Question) -> None:
        words, bound, price = array(INT), question.bound, question.row_price
        self._step = [self._follow(sequence) for sequence in question.sequences]
        for index, (followed, sequence, forced) in enumerate(
            zip(self._step, question.sequences, question.forced, strict=True)
        ):
            length = len(sequence.token_ids)
            if not followed.is_waiting:
                followed.num_told = length
            words.extend((followed.number, length, index in bound, len(forced), *forced))
        nearby = floor(price * 100 + 0.5) / 100
        begin = self._library.bowsprit_ledger_begin_step
        untold, self._untold = self._untold, array(INT)  # in any case: what was refused once isn't told again
        self._check(begin(self._handle, *_message(untold), *_message(words), price, nearby))
        self._begin(question.forced)

    def due(self, slot: str, indices: Sequence[int], *, price: float) -> Collection[int]:
        asked, flags = array(INT, indices), _flags(len(indices))
        due = self._library.bowsprit_ledger_due
        self._check(due(self._handle, self._slots[slot], *_message(asked), price, _address(flags)))
        return [index for index, is_due in zip(indices, flags, strict=True) if is_due]

    def not_waiting(self, slot: str, indices: Sequence[int]) -> Sequence[int]:
        asked, flags = array(INT, indices), _flags(len(indices))
        waiting = self._library.bowsprit_ledger_waiting
        self._check(waiting(self._handle, self._slots[slot], *_message(asked), _address(flags)))
        return [index for index, is_waiting in zip(indices, flags, strict=True) if not is_waiting]

    def watch(self, answers: Answers) -> None:
        words, confidences = array(INT), array(DOUBLE)
        _say(answers.drafts, words, confidences)
        watch, slot = self._library.bowsprit_ledger_watch, self._slots[answers.drafter.name]
        self._check(watch(self._handle, slot, *_message(words), _address(confidences)))
        for index in answers.drafts:
            self._step[index].is_waiting = self._step[index].is_watched = True

    def take(self, answers: Sequence[Answers]) -> None:
        words, confidences = array(INT), array(DOUBLE)
        for drafter, drafts in answers:
            slot = self._slots[drafter.name]
            words.append(slot)
            self._said[slot] = drafts
            _say(drafts, words, confidences)
        self._num_offered += len(words)  # more than its tokens
        slots, lengths = self._best = _ints(len(self._step)), _ints(len(self._step))
        take, out = self._library.bowsprit_ledger_take, (_address(slots), _address(lengths))
        self._check(take(self._handle, *_message(words), _address(confidences), *out))

    def whom_to_ask(self, drafter: Drafter, caps: Mapping[int, int], price: CallPrice) -> Mapping[int, int]:
        wanted, asked = array(INT), _ints(len(self._step))
        for cap in caps.items():
            wanted.extend(cap)
        whom, slot = self._library.bowsprit_ledger_whom_to_ask, self._slots[drafter.name]
        call = array(DOUBLE, price.call)
        self._check(whom(self._handle, slot, *_message(wanted), _address(call), price.each, _address(asked)))
        return {index: tokens for index, tokens in enumerate(asked) if tokens}

    def open_ends(self) -> Mapping[int, tuple[int, ...]]:
        if self._best is None:
            return {}
        return {
            index: self._said[slot][index].token_ids[:length]
            for index, (slot, length) in enumerate(zip(*self._best, strict=True))
            if slot in self._costly
        }

    def follow(self, answers: Answers) -> Collection[int]:
        words, confidences, lengths = array(INT), array(DOUBLE), _ints(len(answers.drafts))
        _say(answers.drafts, words, confidences)
        self._num_offered += len(words)
        follow, slot = self._library.bowsprit_ledger_follow, self._slots[answers.drafter.name + AHEAD]
        self._check(follow(self._handle, slot, *_message(words), _address(confidences), _address(lengths)))
        found = [
            (index, draft.token_ids[:length])
            for (index, draft), length in zip(answers.drafts.items(), lengths, strict=True)
            if length
        ]
        self._more.update({index: (slot - 1, token_ids) for index, token_ids in found})
        return [index for index, _ in found]

    def proposals(self) -> tuple[Proposal, ...]:
        step = self._step
        if not self._num_offered and not any(followed.is_waiting for followed in step):
            return (NOTHING,) * len(step)
        survivals, waiting = array(DOUBLE, bytes(8 * self._num_offered)), _flags(len(step))
        out = (_address(survivals), self._num_offered, _address(waiting))
        self._check(self._library.bowsprit_ledger_proposals(self._handle, *out))
        for followed, is_waiting in zip(step, waiting, strict=True):
            followed.is_waiting = bool(is_waiting)
            followed.is_watched = followed.is_watched and followed.is_waiting
        return self._composed(survivals)

    def _composed(self, survivals: array[float]) -> tuple[Proposal, ...]:
        made = []
        begin = 0
        slots, lengths = self._best or (_ints(len(self._step)), _ints(len(self._step)))
        for index, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            tokens = self._forced[index]
            sources = (NOBODY,) * len(tokens)
            if length:
                tokens += self._said[slot][index].token_ids[:length]
                sources += (self._names[slot],) * length
                more = self._more.get(index)
                if more is not None:
                    tokens += more[1]
                    sources += (self._names[more[0]],) * len(more[1])
            if not tokens:
                made.append(NOTHING)
                continue
            end = begin + len(tokens)
            made.append(Proposal(token_ids=tokens, sources=sources, survivals=tuple(survivals[begin:end])))
            begin = end
        return tuple(made)

    def is_waiting(self) -> bool:
        return any(followed.is_waiting for followed in self._step)

    def grant(self, sequences: Sequence[LiveSequence], proposals: Sequence[Proposal]) -> None:
        for sequence, proposal in zip(sequences, proposals, strict=True):
            followed = self._followed.get(sequence.request_id)
            if followed is not None and followed.is_waiting:
                tokens = proposal.token_ids
                self._untold.extend((GRANTED, followed.number, len(sequence.token_ids), len(tokens), *tokens))

    def waits_for(self, sequence: LiveSequence) -> bool:
        followed = self._followed.get(sequence.request_id)
        return followed is not None and followed.is_waiting

    def learn(self, sequence: LiveSequence) -> Sequence[Watched]:
        followed = self._followed[sequence.request_id]
        begin = followed.num_told
        new = sequence.token_ids[begin:]
        self._untold.extend((EMITTED, followed.number, begin, len(new), *new))
        followed.num_told = begin + len(new)
        if followed.is_watched or len(self._untold) > MOST_UNTOLD:
            return self._watched(self._tell_all())
        return ()

    def forget(self, sequence: LiveSequence) -> Sequence[Watched]:
        followed = self._followed.pop(sequence.request_id, None)
        if followed is None:
            return ()
        self._tell_all()
        new, num_watched = array(INT, sequence.token_ids[followed.num_told :]), c_int64()
        forget = self._library.bowsprit_ledger_forget
        told = (followed.number, followed.num_told, *_message(new), ctypes.byref(num_watched))
        self._check(forget(self._handle, *told))
        self._free_numbers.append(followed.number)
        return self._watched(num_watched.value)

    def void(self, slots: Iterable[str]) -> None:
        self._tell_all()
        for slot in slots:
            self._check(self._library.bowsprit_ledger_void(self._handle, self._slots[slot]))

    def _follow(self, sequence: LiveSequence) -> _Followed:
        followed = self._followed.get(sequence.request_id)
        if followed is None:
            number = self._free_numbers.pop() if self._free_numbers else len(self._followed)
            followed = self._followed[sequence.request_id] = _Followed(number=number)
        return followed

    def _tell_all(self) -> int:
        """How many decided drafts that were watched wait to be read."""
        num_watched = c_int64()
        untold, self._untold = self._untold, array(INT)
        self._check(self._library.bowsprit_ledger_tell(self._handle, *_message(untold), ctypes.byref(num_watched)))
        return num_watched.value

    def _watched(self, num: int) -> Sequence[Watched]:
        if num == 0:
            return ()
        words = _ints(3 * num)
        self._check(self._library.bowsprit_ledger_watched(self._handle, _address(words)))
        entries = zip(words[0::3], words[1::3], words[2::3], strict=True)
        return [
            Watched(drafter=self._names[slot], num_drafted=num_drafted, num_matched=num_matched)
            for slot, num_drafted, num_matched in entries
        ]

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"the ledger in C++: {self._error()}")

    def _error(self) -> str:
        message: bytes = self._library.bowsprit_lookup_error()
        return message.decode()


def _say(drafts: Mapping[int, Draft], words: array[int], confidences: array[float]) -> None:
    words.append(len(drafts))
    for index, draft in drafts.items():
        tokens, sure = draft.token_ids, draft.confidences
        words.extend((index, sure is not None, len(tokens), *tokens))
        if sure is not None:
            confidences.extend(sure)


def _message(words: array[int]) -> tuple[int, int]:
    return words.buffer_info()


def _address(buffer: array[int] | array[float]) -> int:
    return buffer.buffer_info()[0]


def _ints(count: int) -> array[int]:
    return array(INT, bytes(4 * count))


def _flags(count: int) -> array[int]:
    return array(FLAG, bytes(count))
