"""What the grammars of all requests that are there may hold, and who shares one."""

from __future__ import annotations

from typing import Any

import pytest

from bowsprit_engine.core.grammar import CompiledGrammar
from bowsprit_engine.core.memory_budget import MIB
from bowsprit_engine.server import grammars as module
from bowsprit_engine.server.grammars import Grammars, grammar_bytes
from bowsprit_engine.server.structured import json_structure
from scripted_engine import END, VOCAB_SIZE, byte_tokenizer
from server.running_server import RunningServer, Serve

NUMBER, TEXT = {"type": "integer"}, {"type": "string", "maxLength": 3}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


async def compiled(grammars: Grammars, schema: dict[str, Any], *, tenant: str = "") -> CompiledGrammar:
    grammar = await grammars.compile(lambda: json_structure(schema, param="response_format"), tenant=tenant)
    assert grammar is not None
    return grammar


async def test_requests_of_one_tenant_share_a_grammar_as_long_as_one_has_it() -> None:
    """Not those of another tenant; when nobody has it any more, it is compiled again."""
    grammars = Grammars(byte_tokenizer(), vocab_size=VOCAB_SIZE, eos_token_ids=[END])
    first = await compiled(grammars, NUMBER, tenant="a")
    same = await compiled(grammars, NUMBER, tenant="a")
    other_schema = await compiled(grammars, TEXT, tenant="a")
    other_tenant = await compiled(grammars, NUMBER, tenant="b")
    assert (same is first, other_schema is first, other_tenant is first) == (True, False, False)
    lexers = first.lexers
    del first, same
    assert (await compiled(grammars, NUMBER, tenant="a")).lexers is not lexers


async def test_a_grammar_beyond_what_all_may_hold_comes_back_later(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 429 that names what they take and the limit; the same grammar of the same user takes nothing more."""
    monkeypatch.setattr(module, "MAX_LIVE_BYTES", 2 * MIB)
    server: RunningServer = await serve()
    taken = await server.chat(**form(NUMBER), user="a")
    shared = await server.chat(**form(NUMBER), user="a")
    refused = [await server.chat(**form(NUMBER), user="b"), await server.chat(**form(TEXT), user="a")]
    free_text = await server.chat(user="b")
    assert [taken.status_code, shared.status_code, free_text.status_code] == [200] * 3
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(429, "1")] * 2
    assert refused[0].json()["error"] == {
        "message": "grammars of running and waiting requests take 2 MiB (1 of them), this one 2 MiB more, and the "
        "limit is 2 MiB",
        "type": "rate_limit_error",
        "param": None,
        "code": "Overloaded",
    }
    server.engine.requests.clear()
    assert (await server.chat(**form(TEXT), user="a")).status_code == 200


@pytest.mark.parametrize(("num_characters", "expected"), [(0, 1.5), (65_536, 17.5)])
def test_a_longer_source_is_planned_to_take_more(num_characters: int, expected: float) -> None:
    """In MiB."""
    assert grammar_bytes(num_characters) / MIB == expected
