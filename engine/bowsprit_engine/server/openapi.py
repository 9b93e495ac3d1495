"""The OpenAPI document of the serving port, from the very models that read its bodies.

Decides nothing. Answers are described as far as every client reads them: objects, and errors in OpenAI's shape.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from bowsprit_engine.server.wire import ChatBody, CompletionBody

_REF = "#/components/schemas/{model}"
_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(*, version: str) -> dict[str, Any]:
    """OpenAPI 3.1."""
    _, models = models_json_schema([(ChatBody, "validation"), (CompletionBody, "validation")], ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bowsprit", "version": version},
        "paths": {
            "/v1/models": {"get": {"responses": _responses({})}},
            "/v1/models/{model}": {"get": {"parameters": [_MODEL], "responses": _responses({})}},
            "/v1/chat/completions": {"post": _posting("ChatBody")},
            "/v1/completions": {"post": _posting("CompletionBody")},
        },
        "components": {"schemas": {**models["$defs"], "Error": _ERROR}},
    }


def _posting(model: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}
    return {
        "requestBody": {"required": True, "content": content},
        "responses": _responses({"text/event-stream": {"schema": {"type": "string"}}}),
    }


def _responses(others: dict[str, Any]) -> dict[str, Any]:
    error = {
        "description": "An error",
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
    }
    answer = {"application/json": {"schema": {"type": "object"}}, **others}
    return {"200": {"description": "The answer", "content": answer}, "4XX": error, "5XX": error}
