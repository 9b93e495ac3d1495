"""Which costly drafters the table admits and the pool hardly ever asks, since what they bring isn't worth it.

Nothing lowers those: they are judged by verified drafts (lowering.py), and have next to none. Whoever looks why a head
drafts nothing is to be told all the same. Decides by the share of recent steps, per batch bucket; refuses to know why
the pool doesn't ask.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bowsprit_engine.speculation.costs import batch_bucket
from bowsprit_policy.wire import LoweredDrafter

HALF_LIFE_STEPS = 128
KEEP = 0.5 ** (1 / HALF_LIFE_STEPS)
LEAST_STEPS = 64.0  # a drafter that is new is asked, and believed, first
HARDLY_EVER = 1 / 50
AGAIN = 1 / 10  # of one that was passed over


@dataclass(slots=True, kw_only=True)
class _Asking:
    """Recent steps in which a drafter was admitted, and those in which it was asked."""

    steps: float = 0.0
    asked: float = 0.0
    message: str | None = None  # while it is passed over

    def add(self, *, is_asked: bool, batch: int) -> bool:
        """Whether that changed what is said of it."""
        self.steps = self.steps * KEEP + 1.0
        self.asked = self.asked * KEEP + is_asked
        share, before = self.asked / self.steps, self.message
        if self.steps >= LEAST_STEPS and share < HARDLY_EVER and before is None:
            self.message = f"batch {batch}: hardly ever asked, what it brings isn't worth asking for"
        elif share > AGAIN:
            self.message = None
        return self.message != before


class PassedOver:
    """Used by the engine's thread; `lowered` may be read by any."""

    def __init__(self) -> None:
        self._askings: dict[tuple[str, int], _Asking] = {}  # by drafter and batch bucket
        self.lowered: tuple[LoweredDrafter, ...] = ()

    def observe(self, *, admitted: Collection[str], asked: Collection[str], batch: int) -> None:
        """A step of `batch` sequences that was no probe: the table let these draft, and the pool asked those."""
        bucket = batch_bucket(batch)
        changed = [
            self._askings.setdefault((name, bucket), _Asking()).add(is_asked=name in asked, batch=bucket)
            for name in admitted
        ]
        if any(changed):
            self._publish()

    def forget(self, name: str) -> None:
        """It was swapped: what is remembered of it is void."""
        self._askings = {key: asking for key, asking in self._askings.items() if key[0] != name}
        self._publish()

    def _publish(self) -> None:
        self.lowered = tuple(
            LoweredDrafter(name=name, draft_tokens=0, batches=(bucket,), reason="LowAcceptance", message=asking.message)
            for (name, bucket), asking in sorted(self._askings.items(), key=lambda entry: entry[0])
            if asking.message is not None
        )


def merged(entries: Iterable[LoweredDrafter]) -> tuple[LoweredDrafter, ...]:
    """One entry for each drafter, by name: all its batches, and what is said of each."""
    by_name: dict[str, list[LoweredDrafter]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    return tuple(
        of[0].model_copy(
            update={
                "batches": tuple(sorted({batch for entry in of for batch in entry.batches})),
                "message": "; ".join(entry.message for entry in of),
            }
        )
        for _, of in sorted(by_name.items())
    )
