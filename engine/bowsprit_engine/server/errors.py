"""Errors as OpenAI's clients expect them: a status, and a body that names the field, the value and the limit.

The only place where the engine's errors become HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bowsprit_engine.errors import CallerError, WorldError

QUOTED_CHARACTERS = 120
RETRY_AFTER_SECONDS = 1
_STATUS_OF_CODE = {"model_not_found": 404, "not_found": 404, "body_too_large": 413, "stale_policy": 409}


class UnavailableError(WorldError):
    """Not now, but soon or elsewhere: starting, or going."""


def error_body(message: str, *, type: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def as_response(error: Exception) -> JSONResponse:
    """The response that an error becomes. Anything unexpected is a 500 that tells the caller nothing of the inside."""
    match error:
        case CallerError():
            body = error_body(str(error), type="invalid_request_error", param=error.param, code=error.code)
            return JSONResponse(body, _STATUS_OF_CODE.get(error.code, 400))
        case UnavailableError():
            return _unavailable(str(error), error.reason)
        case WorldError(reason="Draining" | "Loading"):
            return _unavailable(str(error), error.reason)
        case WorldError(reason="Overloaded"):
            body = error_body(str(error), type="rate_limit_error", code=error.reason)
            return JSONResponse(body, 429, headers={"retry-after": str(RETRY_AFTER_SECONDS)})
        case WorldError():
            return JSONResponse(error_body(str(error), type="server_error", code=error.reason), 500)
        case HTTPException():
            body = error_body(str(error.detail), type="invalid_request_error", code=_code_of(error.status_code))
            return JSONResponse(body, error.status_code, headers=error.headers)
        case _:
            return JSONResponse(error_body("internal error", type="server_error", code="internal_error"), 500)


def explain(problems: Sequence[Mapping[str, Any]]) -> CallerError:
    """The first of pydantic's problems with a body, as one sentence about one field.

    A field of several forms has a problem for each: told is the one that got deepest, and beyond the form itself.
    """
    field = _field(problems[0])
    problem = max(
        (problem for problem in problems if _field(problem) == field),
        key=lambda problem: (sum(map(_is_shown, problem["loc"])), not problem["type"].endswith("_type")),
    )
    param = _path(problem["loc"])
    kind = problem["type"]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "json_invalid":
        return CallerError(f"the body is not JSON: {problem['ctx']['error']}", code="invalid_json")
    if kind == "missing":
        return CallerError(f"{param} is missing", param=param, code="missing_required_parameter")
    if kind == "extra_forbidden":
        return CallerError(f"{param}: this server doesn't know the field", param=param, code="unknown_parameter")
    return CallerError(f"{param or 'the body'}: {_quoted(problem['input'])} is not accepted: {message}", param=param)


def install(app: FastAPI) -> None:
    """Have every error of `app` answered by `as_response`."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return as_response(error)  # an unexpected one is logged by uvicorn, to which Starlette raises it again

    for kind in (CallerError, WorldError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def _unavailable(message: str, code: str) -> JSONResponse:
    body = error_body(message, type="service_unavailable", code=code)
    return JSONResponse(body, 503, headers={"retry-after": str(RETRY_AFTER_SECONDS)})


def _code_of(status: int) -> str:
    return {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")


def _field(problem: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where the first of the names begins that only pydantic knows: up to there, problems are of one field."""
    location: tuple[str | int, ...] = problem["loc"]
    return location[: next((i for i, part in enumerate(location) if not _is_shown(part)), len(location))]


def _is_shown(part: str | int) -> bool:
    return isinstance(part, int) or part.replace("_", "").isalnum()


def _path(location: Sequence[str | int]) -> str | None:
    """`messages.0.content`; names of union members, which only pydantic knows, are left out."""
    words = [str(part) for part in location if _is_shown(part)]
    return ".".join(words) or None


def _quoted(value: object) -> str:
    text = json.dumps(value, default=str) if isinstance(value, Mapping | list | str) else str(value)
    return text if len(text) <= QUOTED_CHARACTERS else f"{text[:QUOTED_CHARACTERS]}… ({len(text)} characters)"
