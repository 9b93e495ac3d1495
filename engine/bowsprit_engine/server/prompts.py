"""From a body to prompt token ids, by the model's own chat template and tokenizer.

Decides what a template that can't do something means for the caller (a 400 that says so; nothing is dropped in
silence). Refuses to know sampling and the engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta

from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.tools import ToolFormat, ToolUse, format_named, format_of
from bowsprit_engine.server.wire import ChatBody, CompletionBody, Message

MAX_CHARACTERS_PER_TOKEN = 128  # no vocabulary has longer tokens but for runs of blanks; bounds work on absurd prompts


class PromptEncoder:
    """The tokenizer of the served model. Methods raise CallerError naming the field."""

    def __init__(self, tokenizer: Any, *, max_model_len: int, tool_format: str = "auto") -> None:
        """Raises CallerError for a tool format that there isn't; "auto" is the one that the template teaches."""
        self.tokenizer = tokenizer
        self._max_model_len = max_model_len
        template = getattr(tokenizer, "chat_template", None)
        self._has_template = bool(template)
        text = template if isinstance(template, str) else ""
        self._offers_tools = _reads(text, "tools")
        self._writes_calls = "tool_calls" in text
        self.tool_format: ToolFormat | None = format_of(text) if tool_format == "auto" else format_named(tool_format)

    def chat(self, body: ChatBody, use: ToolUse | None = None) -> tuple[int, ...]:
        """Token ids of the conversation, up to where the assistant begins; `use`: its tools are offered."""
        if not self._has_template:
            raise CallerError("this model has no chat template, use /v1/completions", param="messages")
        messages = [_plain(message, f"messages.{index}") for index, message in enumerate(body.messages)]
        tools = None if use is None else [tool.model_dump(exclude_unset=True) for tool in body.tools or ()]
        if tools and not self._offers_tools:
            messages, tools = _with_tools(messages, tools, use), None
        elif self.tool_format is not None and not self._writes_calls:
            messages = [_with_calls(message, self.tool_format) for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise CallerError(f"the model's chat template refuses the messages: {error}", param="messages") from error
        return self._encode(text, param="messages", add_special_tokens=False)

    def completion(self, body: CompletionBody) -> list[tuple[int, ...]]:
        """Token ids of each prompt."""
        prompt = body.prompt
        if isinstance(prompt, str):
            return [self._encode(prompt, param="prompt")]
        if isinstance(prompt[0], int):
            return [tuple(prompt)]
        return [self._encode(item, param="prompt") if isinstance(item, str) else tuple(item) for item in prompt]

    def _encode(self, text: str, *, param: str, add_special_tokens: bool = True) -> tuple[int, ...]:
        limit = self._max_model_len * MAX_CHARACTERS_PER_TOKEN
        if len(text) > limit:
            raise CallerError(
                f"{param}: {len(text)} characters can't fit in the model's {self._max_model_len} tokens",
                param=param,
                code="context_length_exceeded",
            )
        ids: Sequence[int] = self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False).input_ids
        return tuple(ids)


def _plain(message: Message, param: str) -> dict[str, Any]:
    """As templates expect it: one text, known roles, absent fields absent, arguments of calls as objects."""
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    plain: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": text}
    calls = None if message.tool_calls is None else [_plain_call(call, param) for call in message.tool_calls]
    optional = {"name": message.name, "tool_calls": calls, "tool_call_id": message.tool_call_id}
    return plain | {key: value for key, value in optional.items() if value is not None}


def _plain_call(call: Mapping[str, Any], param: str) -> dict[str, Any]:
    """OpenAI's clients send arguments back as they got them, as text; templates write them as JSON themselves."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise CallerError(f"{param}.tool_calls: a call has a function with a name", param=f"{param}.tool_calls")
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise CallerError(
                f"{param}.tool_calls: the arguments are not JSON: {error}", param=f"{param}.tool_calls"
            ) from error
    return {**call, "function": {**function, "arguments": arguments}}


def _with_tools(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], use: ToolUse | None
) -> list[dict[str, Any]]:
    """The conversation for a template that can't offer tools, by the format's own prompt. Raises CallerError."""
    if use is None or use.form.prompt is None:
        raise CallerError(
            "this model's chat template can't offer tools; leave `tools` out or set tool_choice to \"none\"",
            param="tools",
            code="unsupported_parameter",
        )
    offer = use.form.prompt.replace("{tools}", json.dumps([tool["function"] for tool in tools], ensure_ascii=False))
    system = [message["content"] for message in messages[:1] if message["role"] == "system"]
    told = {"role": "system", "content": "\n\n".join([offer, *system])}
    return [told, *(_with_calls(message, use.form) for message in messages[len(system) :])]


def _with_calls(message: dict[str, Any], form: ToolFormat) -> dict[str, Any]:
    """An assistant's calls as the text that they were."""
    if not message.get("tool_calls") or form.between is None:
        return message
    calls = [
        {"name": call["function"]["name"], form.arguments_key: call["function"]["arguments"]}
        for call in message["tool_calls"]
    ]
    written = form.between.join(json.dumps(call, ensure_ascii=False) for call in calls)
    return {**message, "content": f"{message['content']}{form.opening}{written}{form.closing}"}


def _reads(template: str, variable: str) -> bool:
    """Whether a template looks at a variable; one that needs transformers' extensions to parse is searched."""
    try:
        return variable in jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template))
    except jinja2.TemplateSyntaxError:
        return re.search(rf"\b{variable}\b", template) is not None
