"""Any body whatever gets an answer or a refusal, never a 5xx."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bowsprit_engine.server.wire import ChatBody, CompletionBody
from server.running_server import RunningServer, Serve

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers(-3, 600) | st.floats(-3, 3) | st.sampled_from([1e308, 5e-324, 2**63, float("nan")])
FIELDS = {**ChatBody.model_fields, **CompletionBody.model_fields}
REQUIRED = ("model", "messages", "prompt")
SCHEMAS = st.recursive(
    st.sampled_from(
        [
            *({}, {"type": "string"}, {"type": "integer", "minimum": 3}, {"enum": ["a", 1, None]}, {"type": "null"}),
            *({"type": "string", "pattern": "^[a-c]{2,4}$"}, {"not": {}}, {"$ref": "#/$defs/x"}, {"type": "objct"}),
        ]
    ),
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2)},
            optional={"required": st.lists(st.sampled_from("abc"), max_size=2), "additionalProperties": st.booleans()},
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)})
    ),
    max_leaves=4,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": st.sampled_from("fg")}, optional={"parameters": SCHEMAS}),
        }
    ),
    max_size=2,
)
NAMED = {"type": "function", "function": {"name": "f"}}
SENSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": st.text(max_size=20)}),
        min_size=1,
        max_size=3,
    ),
    "prompt": st.text(max_size=30) | st.lists(st.integers(0, 300) | st.text(max_size=5), max_size=3),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=3),
    "tools": TOOLS,
    "tool_choice": st.sampled_from(["none", "auto", "required", NAMED]),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}])
    | SCHEMAS.map(lambda schema: {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
    "structured_outputs": st.sampled_from([{"regex": "(ab|c)*d{2,}"}, {"choice": ["a", "é"]}, {"json_object": True}])
    | SCHEMAS.map(lambda schema: {"json": schema}),
    "n": st.integers(0, 3),
    "stream": st.booleans(),
    "logit_bias": st.dictionaries(st.integers(0, 300).map(str), st.floats(-120, 120), max_size=3),
}


def bodies() -> st.SearchStrategy[dict[str, Any]]:
    """Known fields with likely, numeric or arbitrary values."""
    optional = {name: SENSIBLE.get(name, NUMBERS) | JSON for name in FIELDS if name not in REQUIRED}
    required = {"messages": SENSIBLE["messages"], "prompt": SENSIBLE["prompt"]}
    few = st.lists(st.sampled_from(sorted(optional)), max_size=4, unique=True) | st.lists(
        st.sampled_from(["tools", "tool_choice", "response_format", "structured_outputs", "stream"]), unique=True
    )
    return few.flatmap(lambda names: st.fixed_dictionaries({**required, **{name: optional[name] for name in names}}))


async def test_no_body_makes_the_server_fail(serve: Serve) -> None:
    """Streams included: each is read to its end."""
    server: RunningServer = await serve()
    drawn: list[dict[str, Any]] = []

    @settings(
        max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
    )
    @given(bodies())
    def collect(body: dict[str, Any]) -> None:
        drawn.append(body)

    collect()
    statuses = set()
    for body in drawn:
        for path, other in (("/v1/chat/completions", "prompt"), ("/v1/completions", "messages")):
            content = json.dumps({"model": "scripted", **{k: v for k, v in body.items() if k != other}})
            answer = await server.client.post(path, content=content.encode("utf-8", "surrogatepass"))
            statuses.add(answer.status_code)
            assert answer.status_code in (200, 400), (body, answer.text)
    assert statuses == {200, 400}
