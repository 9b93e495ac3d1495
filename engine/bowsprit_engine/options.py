"""Settings classes as command lines: each field a flag, with its help, its default and its environment variable.

So flags, environment and checks have one source (config.py). Refuses to know what commands do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bowsprit_engine.config import SettingsT, settings_from
from bowsprit_engine.errors import CallerError
from bowsprit_engine.model_settings import ProcessSettings

POD_FIELDS = ("pod_name", "pod_uid")  # set by the pod's environment, not by people


def command(kind: type[SettingsT], run: Callable[[SettingsT], None]) -> Callable[..., None]:
    """A function for typer whose parameters are the fields of `kind`; exits 2 with one line per bad value."""

    def wrapper(**given: Any) -> None:
        try:
            settings = settings_from(kind, {name: value for name, value in given.items() if value not in (None, [])})
        except CallerError as error:
            for line in str(error).splitlines():
                typer.secho(f"error: {line}", err=True, fg=typer.colors.RED)
            raise typer.Exit(2) from error
        run(settings)

    parameters = [_parameter(name, field) for name, field in _shown(kind).items()]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _shown(kind: type[ProcessSettings]) -> dict[str, FieldInfo]:
    """Required ones first, then in the order of the class itself, then what it inherits."""
    own = {name: field for name, field in kind.model_fields.items() if name in kind.__annotations__}
    fields = {**own, **kind.model_fields}
    names = sorted(fields, key=lambda name: not fields[name].is_required())
    return {name: fields[name] for name in names if name not in POD_FIELDS}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    is_list = get_origin(field.annotation) is tuple
    text, default = field.description or "", _default_text(field)
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        envvar=f"BOWSPRIT_{name.upper()}",
        show_envvar=True,
        show_default=False,
        help=text if default is None else f"{text} [default: {default}]",
        metavar=name.split("_")[-1].upper(),
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[list[str] | None, option] if is_list else Annotated[str | None, option],
    )


def _default_text(field: FieldInfo) -> str | None:
    if field.is_required():
        return "none, it is required"
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "auto" in extra:
        return str(extra["auto"])
    if field.default in (None, "", PydanticUndefined):
        return None
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
