"""Captured traffic: what is kept, in which files, for how long, and what training reads of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bowsprit_engine.capture import schema
from bowsprit_engine.capture.intake import Capture
from bowsprit_engine.capture.reader import num_tokens, read_shards
from bowsprit_engine.capture.schema import CapturedRequest
from bowsprit_engine.capture.store import ShardStore
from bowsprit_engine.capture.writer import ShardWriter, WriterSettings
from bowsprit_engine.core.request import FinishedRequest, FinishReason
from bowsprit_engine.errors import WorldError

DIGEST = "d" * 64
NOW = datetime(2020, 11, 24, 12, tzinfo=UTC)  # before any file of a test is written


def finished(number: int = 0, *, prompt: int = 3, response: int = 5, is_allowed: bool = True) -> FinishedRequest:
    """Tokens of a prompt are `number`, so that a request can be told from the others."""
    return FinishedRequest(
        request_id=f"r-{number}",
        prompt_token_ids=(number,) * prompt,
        response_token_ids=(7,) * response,
        accepted_counts=(2, 0),
        drafter_names=("ngram", ""),
        finish_reason=FinishReason.STOP,
        tenant="t",
        capture_allowed=is_allowed,
        temperature=0.5,
    )


Write = Callable[..., ShardWriter]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Start writers that end with the test; a shard is written at `flush_requests` or on `close` only."""
    writers: list[ShardWriter] = []

    def start(folder: Path = tmp_path, *, now: Callable[[], datetime] = lambda: NOW, **changes: object) -> ShardWriter:
        settings = {
            "uri": f"file://{folder}",
            "pod_uid": "pod-1",
            "model_digest": DIGEST,
            "max_tokens": 10_000,
            "retention_seconds": 10 * 365 * 86400.0,
            "flush_seconds": 3600.0,
            "flush_requests": 1000,
        }
        writer = ShardWriter(WriterSettings(**{**settings, **changes}), now=now)  # type: ignore[arg-type]
        writers.append(writer)
        return writer

    yield start
    for writer in writers:
        writer.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_request_comes_back_as_it_was_written(write: Write, tmp_path: Path) -> None:
    """Every column."""
    writer = write()
    writer.offer(finished(4))
    writer.close()
    assert read_shards(f"file://{tmp_path}", model_digest=DIGEST).requests == [
        CapturedRequest(
            time=NOW,
            model_digest=DIGEST,
            tenant="t",
            prompt_token_ids=(4, 4, 4),
            response_token_ids=(7,) * 5,
            accepted_counts=(2, 0),
            drafter_names=("ngram", ""),
            finish_reason="stop",
            temperature=0.5,
        )
    ]


def test_a_shard_is_written_after_so_many_requests(write: Write, tmp_path: Path) -> None:
    """Named by pod and number; what is left comes with the drain."""
    writer = write(flush_requests=2)
    for number in range(5):
        writer.offer(finished(number))
    writer.close()
    assert names(tmp_path) == [f"pod-1-00000{i}.parquet" for i in range(3)]
    stats = writer.stats()
    assert (stats.requests, stats.tokens, stats.response_tokens, stats.shards) == (5, 40, 25, 3)


def test_a_shard_is_written_when_its_time_has_come(write: Write, tmp_path: Path) -> None:
    """With however few requests."""
    writer = write(flush_seconds=0.05)
    writer.offer(finished())
    deadline = time.monotonic() + 20
    while writer.stats().shards == 0 and time.monotonic() < deadline:
        os.sched_yield()
    assert names(tmp_path) == ["pod-1-000000.parquet"]


def test_a_restarted_container_goes_on_numbering(write: Write, tmp_path: Path) -> None:
    """Its pod's uid is the same: nothing is written over."""
    for number in range(2):
        writer = write()
        writer.offer(finished(number))
        writer.close()
    assert names(tmp_path) == ["pod-1-000000.parquet", "pod-1-000001.parquet"]


def test_beyond_the_token_budget_the_oldest_shards_go(write: Write, tmp_path: Path) -> None:
    """Whoever wrote them: dead pods' shards leave too."""
    old = write(pod_uid="pod-0")
    old.offer(finished(0))
    old.close()
    _age(tmp_path / "pod-0-000000.parquet", timedelta(hours=1))
    writer = write(max_tokens=20, flush_requests=1)
    for number in (1, 2):
        writer.offer(finished(number))
    writer.close()
    assert names(tmp_path) == ["pod-1-000000.parquet", "pod-1-000001.parquet"]


def test_shards_past_their_retention_go(write: Write, tmp_path: Path) -> None:
    """By the time at which they were written."""
    old = write(pod_uid="pod-0")
    old.offer(finished(0))
    old.close()
    _age(tmp_path / "pod-0-000000.parquet", timedelta(hours=3))
    writer = write(retention_seconds=7200.0, now=lambda: datetime.now(UTC))
    writer.offer(finished(1))
    writer.close()
    assert names(tmp_path) == ["pod-1-000000.parquet"]


def test_a_place_that_cant_be_written_costs_its_requests_and_nothing_else(write: Write, tmp_path: Path) -> None:
    """They are counted, and writing goes on once the place is there."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    writer = write(blocked, flush_requests=1)
    writer.offer(finished(1))
    deadline = time.monotonic() + 20
    while not writer.stats().dropped and time.monotonic() < deadline:
        os.sched_yield()
    blocked.unlink()
    writer.offer(finished(2))
    writer.close()
    assert writer.stats().dropped == {"Unwritable": 1}
    assert writer.tokens_by_outcome() == {"Kept": 8, "Unwritable": 8}
    assert names(blocked) == ["pod-1-000000.parquet"]


def test_a_shard_that_is_written_counts_once_though_old_ones_cant_be_deleted(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept, and not Unwritable as well."""

    def refuse(store: ShardStore, name: str) -> None:
        raise OSError(f"{name}: not permitted")

    monkeypatch.setattr(ShardStore, "delete", refuse)
    writer = write(max_tokens=0)
    writer.offer(finished())
    writer.close()
    assert writer.tokens_by_outcome() == {"Kept": 8}


def test_a_place_that_hangs_doesnt_keep_the_process_from_ending(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the queue to it is full."""
    is_hanging, may_go_on = threading.Event(), threading.Event()

    def hang(store: ShardStore, name: str, content: bytes) -> None:
        is_hanging.set()
        may_go_on.wait()

    monkeypatch.setattr(ShardStore, "put", hang)
    writer = write(flush_requests=1, close_seconds=0.0)
    writer.offer(finished())
    assert is_hanging.wait(30)
    while not writer.stats().dropped:
        writer.offer(finished())
    writer.close()
    shards = writer.stats().shards
    may_go_on.set()
    assert shards == 0


def test_unreadable_shards_are_reported_and_the_others_are_read(write: Write, tmp_path: Path) -> None:
    """A torn file, an empty one and one of other columns."""
    writer = write()
    writer.offer(finished(1))
    writer.close()
    content = (tmp_path / "pod-1-000000.parquet").read_bytes()
    (tmp_path / "torn.parquet").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not a shard")
    traffic = read_shards(f"file://{tmp_path}", model_digest=DIGEST)
    assert (len(traffic.requests), traffic.shards) == (1, 1)
    assert sorted(name for name, reason in traffic.unreadable if reason) == ["empty.parquet", "torn.parquet"]


def test_the_newest_requests_of_the_model_within_the_window_are_read_in_order(write: Write, tmp_path: Path) -> None:
    """Another model's are counted apart, and a limit of tokens leaves the oldest out."""
    times = iter(NOW + timedelta(minutes=minute) for minute in range(10))
    writer = write(now=lambda: next(times))
    for number in range(4):
        writer.offer(finished(number))
    writer.close()
    other = write(pod_uid="pod-2", model_digest="e" * 64)
    other.offer(finished(9))
    other.close()

    def numbers(**window: object) -> list[int]:
        traffic = read_shards(f"file://{tmp_path}", model_digest=DIGEST, **window)  # type: ignore[arg-type]
        assert traffic.other_models == 1
        return [request.prompt_token_ids[0] for request in traffic.requests]

    assert numbers() == [0, 1, 2, 3]
    assert numbers(since=NOW + timedelta(minutes=2)) == [2, 3]
    assert numbers(max_tokens=17) == [2, 3]


def test_how_many_tokens_would_be_read_is_known_without_reading_rows(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of shards that are another model's alone, or torn, are none; a limit holds as it does for reading."""
    for pod_uid, digest in (("pod-1", DIGEST), ("pod-2", "e" * 64), ("pod-3", DIGEST)):
        writer = write(pod_uid=pod_uid, model_digest=digest)
        writer.offer(finished(1))
        writer.offer(finished(2))
        writer.close()
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "pod-1-000000.parquet").read_bytes()[:100])
    monkeypatch.setattr(schema, "decode", lambda content: pytest.fail("read"))
    counted = [num_tokens(f"file://{tmp_path}", model_digest=DIGEST, max_tokens=most) for most in (None, 20, 100)]
    assert counted == [32, 20, 32]
    assert num_tokens(f"file://{tmp_path}", model_digest="f" * 64) == 0


def test_a_folder_that_isnt_there_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    """An empty one is only empty traffic."""
    assert read_shards(f"file://{tmp_path}", model_digest=DIGEST).requests == []
    for ask in (read_shards, num_tokens):
        with pytest.raises(WorldError) as failure:
            ask(f"file://{tmp_path}/missing", model_digest=DIGEST)
        assert failure.value.reason == "CaptureUnreadable"


@pytest.mark.parametrize(
    ("consent", "header", "is_allowed"),
    [
        ("all", None, True),
        ("all", "allow", True),
        ("all", "deny", False),
        ("all", "perhaps", False),
        ("header-only", None, False),
        ("header-only", "allow", True),
        ("header-only", "deny", False),
        ("none", "allow", False),
    ],
)
def test_consent_decides_whose_requests_are_kept(consent: str, header: str | None, is_allowed: bool) -> None:
    """A header can always forbid, and allows only where it is asked."""
    headers = {} if header is None else {"x-bowsprit-capture": header}
    assert Capture(None, consent=consent).is_allowed(headers) is is_allowed  # type: ignore[arg-type]


def test_what_isnt_kept_is_counted_by_its_reason(write: Write, tmp_path: Path) -> None:
    """No consent, no answer, not in the sample."""
    writer = write()
    capture = Capture(writer, sample_rate=0.0)
    capture.take(finished(1, is_allowed=False))
    capture.take(finished(2, response=0))
    capture.take(finished(3))
    capture.close()
    assert capture.stats().dropped == {"NoConsent": 1, "NoResponse": 1, "NotSampled": 1}
    assert names(tmp_path) == []


def test_a_sample_keeps_about_its_share(write: Write) -> None:
    """Chosen by a hash of the request's id."""
    writer = write()
    capture = Capture(writer, sample_rate=0.25)
    for number in range(400):
        capture.take(finished(number))
    capture.close()
    assert 70 <= capture.stats().requests <= 130


def test_tenants_are_hashed_with_a_key() -> None:
    """The same name is the same tenant in one place, and not to be told from the hash in another."""
    here, there = Capture(None, tenant_key="here"), Capture(None, tenant_key="there")
    assert here.tenant({"x-bowsprit-tenant": "anna"}, user="bob") == here.tenant(
        {"x-bowsprit-tenant": "anna"}, user="bob"
    )
    assert here.tenant({}, user="anna") != there.tenant({}, user="anna")
    assert here.tenant({}, user=None) == ""
    assert "anna" not in here.tenant({}, user="anna")


def test_a_user_parts_a_tenant_and_never_names_another() -> None:
    """The header is the gateway's, `user` the client's own word."""
    capture = Capture(None)
    named = {"x-bowsprit-tenant": "anna"}
    tenants = [
        capture.tenant(headers, user=user)
        for headers, user in (({}, None), ({}, "anna"), (named, None), (named, "anna"), (named, "bob"), ({}, "bob"))
    ]
    assert len(set(tenants)) == len(tenants)


def test_a_shards_tokens_are_in_its_footer() -> None:
    """So that a budget is kept without reading rows."""
    request = CapturedRequest(
        time=NOW,
        model_digest=DIGEST,
        tenant="",
        prompt_token_ids=(1, 2),
        response_token_ids=(3,),
        accepted_counts=(),
        drafter_names=(),
        finish_reason="length",
        temperature=0.0,
    )
    mixed = schema.encode([request, replace(request, model_digest="f" * 64)])
    assert schema.tokens_in(mixed) == 6
    assert [schema.tokens_in(mixed, model_digest=letter * 64) for letter in "cdefg"] == [0, 6, 6, 6, 0]


def _age(path: Path, span: timedelta) -> None:
    then = time.time() - span.total_seconds()
    os.utime(path, (then, then))
