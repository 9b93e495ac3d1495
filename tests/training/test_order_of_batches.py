"""In which order requests are learned from, and when the disk hears of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from bowsprit_engine.training.batches import READ_AHEAD, batches, batches_per_epoch
from bowsprit_engine.training.data import RequestRows


@dataclass(kw_only=True)
class Watched:
    """A request of `length` tokens that writes down when it was announced and when it was read."""

    number: int
    length: int
    events: list[tuple[str, int]] = field(repr=False)
    prompt_token_ids: tuple[int, ...] = (1,)
    arrival: int = 0
    tenant: str = ""

    @property
    def token_ids(self) -> Tensor:
        return torch.arange(self.length)

    @property
    def hidden(self) -> Tensor:
        self.events.append(("read", self.number))
        return torch.zeros(self.length, 2)

    def will_read(self) -> None:
        self.events.append(("announced", self.number))


def watched(lengths: list[int], events: list[tuple[str, int]]) -> list[RequestRows]:
    return [Watched(number=number, length=length, events=events) for number, length in enumerate(lengths)]


def numbers(requests: list[RequestRows], *, rows_per_batch: int, steps: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    made = batches(requests, rows_per_batch=rows_per_batch, steps=steps, generator=generator)
    return [[requests.index(request) for request in batch] for batch in made]


def test_an_epoch_sees_every_request_once_in_an_order_of_chance() -> None:
    """Not by age and not by place on the disk; another one the next time."""
    requests = watched([10] * 60, [])
    found = numbers(requests, rows_per_batch=40, steps=30)
    first, second = ([number for batch in half for number in batch] for half in (found[:15], found[15:]))
    generator = torch.Generator().manual_seed(0)
    assert (first, second) == tuple(torch.randperm(60, generator=generator).tolist() for _ in range(2))


def test_a_batch_is_whole_requests_of_at_least_so_many_rows() -> None:
    """What is left at an epoch's end goes into the next one's first batch."""
    lengths = [3, 5, 8, 13, 21]
    found = numbers(watched(lengths, []), rows_per_batch=20, steps=9)
    rows = [[lengths[number] for number in batch] for batch in found]
    assert all(sum(batch) >= 20 > sum(batch[:-1]) for batch in rows)


@pytest.mark.parametrize(
    "lengths", [[10, 20, 30] * 200, [110] * 300, [40, 900, 300, 1700] * 40], ids=["short", "chat", "long"]
)
def test_an_epochs_steps_see_every_token_once_however_long_answers_are(lengths: list[int]) -> None:
    """Within 3 %: of answers longer than a batch, rows divided by `rows_per_batch` would be three epochs and more."""
    requests = watched(lengths, [])
    steps = batches_per_epoch(requests, rows_per_batch=256)
    seen = sum(lengths[number] for batch in numbers(requests, rows_per_batch=256, steps=steps) for number in batch)
    assert seen == pytest.approx(sum(lengths), rel=0.03)


@pytest.mark.parametrize(
    ("lengths", "steps"), [([4, 4, 4], 1), ([256] * 3, 3), ([256] * 3 + [127], 3), ([300, 200], 2)]
)
def test_what_is_left_of_an_epoch_is_a_step_where_it_is_half_a_batch(lengths: list[int], steps: int) -> None:
    """And there is one at least."""
    assert batches_per_epoch(watched(lengths, []), rows_per_batch=256) == steps


@pytest.mark.parametrize("steps", [1, 3])
def test_fewer_rows_than_a_batch_are_one_batch_an_epoch(steps: int) -> None:
    """Nobody waits for rows that don't come."""
    found = numbers(watched([4, 4, 4], []), rows_per_batch=256, steps=steps)
    assert [sorted(batch) for batch in found] == [[0, 1, 2]] * steps


def test_the_disk_is_told_of_every_request_well_before_its_turn() -> None:
    """Once an epoch each, READ_AHEAD of them ahead or all that are left."""
    events: list[tuple[str, int]] = []
    requests = watched([10] * 150, events)
    for batch in batches(requests, rows_per_batch=10, steps=150, generator=torch.Generator().manual_seed(1)):
        assert [request.hidden.shape[0] for request in batch] == [10]
    announced = [number for event, number in events if event == "announced"]
    read = [number for event, number in events if event == "read"]
    assert announced == read
    for place, number in enumerate(read):
        so_far = [event for event, _ in events[: events.index(("read", number))]]
        assert so_far.count("announced") - so_far.count("read") == min(READ_AHEAD + 1, 150 - place)
