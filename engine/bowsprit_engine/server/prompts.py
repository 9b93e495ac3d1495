"""From a body to prompt token ids, by the model's own chat template and tokenizer.

Decides what a template that can't do something means for the caller (a 400 that says so; nothing is dropped in
silence). Refuses to know sampling and the engine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jinja2
import jinja2.meta

from bowsprit_engine.errors import CallerError
from bowsprit_engine.server.wire import ChatBody, CompletionBody, Message

MAX_CHARACTERS_PER_TOKEN = 128  # no vocabulary has longer tokens but for runs of blanks; bounds work on absurd prompts


class PromptEncoder:
    """The tokenizer of the served model. Methods raise CallerError naming the field."""

    def __init__(self, tokenizer: Any, *, max_model_len: int) -> None:
        self.tokenizer = tokenizer
        self._max_model_len = max_model_len
        template = getattr(tokenizer, "chat_template", None)
        self._has_template = bool(template)
        self.supports_tools = isinstance(template, str) and _reads(template, "tools")

    def chat(self, body: ChatBody) -> tuple[int, ...]:
        """Token ids of the conversation, up to where the assistant begins."""
        if not self._has_template:
            raise CallerError("this model has no chat template, use /v1/completions", param="messages")
        tools = None
        if body.tools and body.tool_choice != "none":
            if not self.supports_tools:
                raise CallerError(
                    "this model's chat template can't offer tools; leave `tools` out or set tool_choice to \"none\"",
                    param="tools",
                    code="unsupported_parameter",
                )
            tools = [tool.model_dump() for tool in body.tools]
        try:
            text = self.tokenizer.apply_chat_template(
                [_plain(message) for message in body.messages], tools=tools, add_generation_prompt=True, tokenize=False
            )
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


def _plain(message: Message) -> dict[str, Any]:
    """As templates expect it: one text, known roles, absent fields absent."""
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    plain: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": text}
    optional = {"name": message.name, "tool_calls": message.tool_calls, "tool_call_id": message.tool_call_id}
    return plain | {key: value for key, value in optional.items() if value is not None}


def _reads(template: str, variable: str) -> bool:
    """Whether a template looks at a variable; one that needs transformers' extensions to parse is searched."""
    try:
        return variable in jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(template))
    except jinja2.TemplateSyntaxError:
        return re.search(rf"\b{variable}\b", template) is not None
