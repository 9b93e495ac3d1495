"""How models write calls of functions: the formats, which one a chat template teaches, and the grammar of calls.

A format is one entry of FORMATS. Decides what `tool_choice` and `parallel_tool_calls` allow. Refuses to know how calls
are read back (tool_calls.py) and how grammars are compiled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llguidance import LLMatcher

from bowsprit_engine.errors import CallerError
from bowsprit_engine.server import schemas
from bowsprit_engine.server.schemas import Schema
from bowsprit_engine.server.structured import BLANKS, Structure, check_schemas
from bowsprit_engine.server.wire import ChatBody, NamedTool, Tool

MAX_CALLS = 16  # of one answer: a small model that may go on never ends


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """Calls in an answer's text: `opening` call (`between` call)* `closing`; a call is a JSON object.

    `marker` begins the opening and is what tells calls from text; "": an answer is calls from its first character, or
    text. `between` None: one call. `may_be_empty`: a block without calls says that none is needed.
    `evidence`: what a template that teaches the format has, all of it. `prompt`: what goes into the system message
    where the template itself can't offer tools, {tools} being their JSON.
    """

    name: str
    marker: str
    opening: str
    between: str | None
    closing: str
    arguments_key: str
    evidence: tuple[str, ...]
    prompt: str | None = None
    may_be_empty: bool = False


# From the models' own cards. Order matters: the first whose evidence a template has is taken.
FORMATS: Mapping[str, ToolFormat] = {
    form.name: form
    for form in (
        ToolFormat(
            name="smollm2",
            marker="<tool_call>",
            opening="<tool_call>[",
            between=", ",
            closing="]</tool_call>",
            arguments_key="arguments",
            evidence=("named SmolLM, trained by Hugging Face",),
            prompt=(
                "You are an expert in composing functions. You are given a question and a set of possible functions. \n"
                "Based on the question, you will need to make one or more function/tool calls to achieve the purpose. "
                "\nIf none of the functions can be used, point it out and refuse to answer. \n"
                "If the given question lacks the parameters required by the function, also point it out.\n\n"
                "You have access to the following tools:\n<tools>{tools}</tools>\n\n"
                "The output MUST strictly adhere to the following format, and NO other text MUST be included.\n"
                "The example format is as follows. Please make sure the parameter type is correct. "
                "If no function call is needed, please make the tool calls an empty list '[]'.\n"
                '<tool_call>[\n{"name": "func_name1", "arguments": {"argument1": "value1", "argument2": "value2"}},\n'
                "... (more tool calls as required)\n]</tool_call>"
            ),
            may_be_empty=True,
        ),
        ToolFormat(
            name="hermes",  # Hermes 2 and 3, Qwen 2.5 and 3
            marker="<tool_call>",
            opening="<tool_call>\n",
            between="\n</tool_call>\n<tool_call>\n",
            closing="\n</tool_call>",
            arguments_key="arguments",
            evidence=("tools", "<tool_call>"),
        ),
        ToolFormat(
            name="llama3_json",
            marker="",
            opening="",
            between=None,
            closing="",
            arguments_key="parameters",
            evidence=("tools", '"parameters"', "<|start_header_id|>"),
        ),
    )
}


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template teaches; None where it teaches none of those known."""
    return next((form for form in FORMATS.values() if all(words in template for words in form.evidence)), None)


def format_named(name: str) -> ToolFormat:
    """Raises CallerError naming the formats."""
    if name not in FORMATS:
        raise CallerError(f"no tool format {name!r}, there are {', '.join(FORMATS)}", param="tool_format")
    return FORMATS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """What a request asks of calls. `tools`: those that may be called. `must_call`: text is no answer."""

    form: ToolFormat
    tools: tuple[Tool, ...]
    must_call: bool
    max_calls: int


def tool_use(body: ChatBody, form: ToolFormat | None) -> ToolUse | None:
    """None where nothing can be called. Raises CallerError for a choice among tools that aren't there."""
    choice = body.tool_choice or "auto"
    tools = tuple(body.tools or ())
    _check_names(tools)
    if choice == "none" or (choice == "auto" and not tools):
        return None
    if not tools:
        raise CallerError("tool_choice needs `tools`, there are none", param="tool_choice")
    if isinstance(choice, NamedTool):
        tools = tuple(tool for tool in tools if tool.function.name == choice.function.name)
        if not tools:
            known = [tool.function.name for tool in body.tools or ()]
            raise CallerError(
                f"tool_choice: no tool {choice.function.name!r}, there are {known}"[:1000], param="tool_choice"
            )
    if form is None:
        raise CallerError(
            "it isn't known how this model writes calls: its chat template teaches none of the formats "
            f'{", ".join(FORMATS)} (--tool-format names one); leave `tools` out or set tool_choice to "none"',
            param="tools",
            code="unsupported_parameter",
        )
    is_single = isinstance(choice, NamedTool) or body.parallel_tool_calls is False or form.between is None
    return ToolUse(form=form, tools=tools, must_call=choice != "auto", max_calls=1 if is_single else MAX_CALLS)


def call_structure(use: ToolUse, answer: Structure | None) -> Structure | None:
    """The grammar of an answer with calls. `answer`: the form that an answer without calls must have, None: any text.

    None where text is free until a call, and nothing tells a call from text. Calls that must be made have no text
    around them; calls that may be made are held to the grammar from their marker on.
    """
    paths = dict(_schema_paths(use))
    size = check_schemas(paths | dict(answer.schemas if answer else {}), param="tools")
    is_costly = size.is_costly or (answer is not None and answer.is_costly)
    rules = [*_call_rules(use)]
    calls = f"{_quoted(use.form.opening)} call{_more(use)} {_quoted(use.form.closing)}"
    if use.must_call:
        rules.append(f"start: {calls}")
    elif answer is not None:
        rules.append(f"start: {calls} | @answer")
    elif not use.form.marker:
        return None
    else:
        rules += _triggered(use)
    lark = "%llguidance {}\n" + "\n".join(rules)
    source = LLMatcher.grammar_from_lark(lark)
    if answer is not None and not use.must_call:
        (inner,) = json.loads(answer.source)["grammars"]
        source = json.dumps({"grammars": [{"name": "calls", "lark_grammar": lark}, {**inner, "name": "answer"}]})
        paths |= answer.schemas
    return Structure(source=source, param="tools", schemas=paths, is_costly=is_costly)


def _schema_paths(use: ToolUse) -> dict[str, Schema]:
    return {f"tools.{index}.function.parameters": _arguments_schema(tool) for index, tool in enumerate(use.tools)}


def _arguments_schema(tool: Tool) -> Schema:
    parameters = tool.function.parameters or {}
    return schemas.closed({"type": "object", "properties": {}, **parameters})


def _call_rules(use: ToolUse) -> Sequence[str]:
    names = [f"call_{index}" for index in range(len(use.tools))]
    rules = [f"call: {' | '.join(names)}"]
    for name, tool in zip(names, use.tools, strict=True):
        head = f'{{"name": {json.dumps(tool.function.name, ensure_ascii=False)}, "{use.form.arguments_key}": '
        schema = json.dumps({**_arguments_schema(tool), "x-guidance": BLANKS})
        rules.append(f'{name}: {_quoted(head)} %json {schema} "}}"')
    return rules


def _triggered(use: ToolUse) -> Sequence[str]:
    """Any text, but for what follows a marker. Where one call is all that is allowed, nothing follows it."""
    form = use.form
    calls = f"(call{_more(use)})?" if form.may_be_empty else f"call{_more(use)}"
    return (
        "start: block* TEXT" if use.max_calls > 1 else "start: block | TEXT",
        "TEXT: /(.|\\n)*/",
        f"trigger[lazy]: TEXT {_quoted(form.marker)}",
        f"block: trigger {_quoted(form.opening.removeprefix(form.marker))} {calls} {_quoted(form.closing)}",
    )


def _more(use: ToolUse) -> str:
    return (
        f" ({_quoted(use.form.between)} call){{0,{use.max_calls - 1}}}"
        if use.form.between and use.max_calls > 1
        else ""
    )


def _quoted(text: str) -> str:
    """A text in Lark's notation; an empty one is nothing."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def _check_names(tools: Sequence[Tool]) -> None:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.function.name in seen:
            raise CallerError(
                f"tools.{index}.function.name: {tool.function.name!r} is there twice",
                param=f"tools.{index}.function.name",
            )
        seen.add(tool.function.name)
