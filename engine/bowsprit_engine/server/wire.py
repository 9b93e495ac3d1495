"""OpenAI's request bodies, as far as they are executed here, with vLLM's extensions that benchmarks rely on.

Decides which fields and values are accepted. Fields that OpenAI's clients send and that change no output are accepted
and ignored by name; any other unknown field is refused. Knows neither tokenizers nor the engine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

MAX_CHOICES = 128
MAX_PROMPTS = 128
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_ANSWERS = 512  # of a `choice`
MAX_EXPRESSION_CHARACTERS = 4096

Text = Annotated[str, Field(max_length=4_000_000)]
StopText = Annotated[str, Field(min_length=1, max_length=512)]
ChoiceText = Annotated[str, Field(min_length=1, max_length=4096)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Stops = Annotated[
    list[StopText],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(max_length=MAX_STOPS),
]
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # OpenAI's padding against traffic analysis: never added here


class Speculation(BaseModel):
    """This request's limits on speculation; they narrow what the table allows and never change the output."""

    model_config = _STRICT

    mode: Literal["auto", "off"] = "auto"
    max_draft_tokens: int | None = Field(default=None, ge=0, le=1024)
    drafter: str | None = Field(default=None, min_length=1, max_length=63)


class StructuredOutputs(BaseModel):
    """vLLM's extension: the output's form, as exactly one of these."""

    model_config = _STRICT

    json_value: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None  # a schema, or its text
    regex: str | None = Field(default=None, min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)
    choice: list[ChoiceText] | None = Field(default=None, min_length=1, max_length=MAX_ANSWERS)
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in ("json_value", "regex", "choice", "json_object") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of json, regex, choice and json_object is needed, there are {len(given)}")
        return self


class GenerationBody(BaseModel):
    """What chat and text completions share."""

    model_config = _STRICT

    model: str = Field(max_length=512)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: Stops | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, gt=0, le=1)
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=1024)
    # vLLM's
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)  # -1 and 0: off
    min_p: Number | None = Field(default=None, ge=0, le=1)
    repetition_penalty: Number | None = Field(default=None, ge=0.01, le=10)  # near 0 logits leave float32
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] | None = None
    structured_outputs: StructuredOutputs | None = None
    # ours
    speculation: Speculation | None = None
    # sent by OpenAI's clients: `user` parts the caller's tenant (capture/intake.py), the others change nothing here
    user: str | None = Field(default=None, max_length=512)
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @field_validator("logit_bias")
    @classmethod
    def _keys_are_token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not (key.isascii() and key.isdecimal() and len(key) < 10):
                raise ValueError(f"keys are token ids, {key[:20]!r} is none")
        return bias

    @property
    def stop_texts(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ContentPart(BaseModel):
    """Text only: the models served here read nothing else."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """Unknown fields are ignored here alone: clients send back whole messages that they were sent."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[ContentPart] | None = None
    name: str | None = Field(default=None, max_length=512)
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = Field(default=None, max_length=512)


class JsonSchema(BaseModel):
    """`strict` is accepted and changes nothing: answers keep to the schema, or it is refused."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, populate_by_name=True)

    name: str = Field(min_length=1, max_length=64)
    definition: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_goes_with_its_type(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is needed with the type json_schema, and with it alone")
        return self


class Function(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=128)
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    name: str = Field(min_length=1, max_length=128)


class NamedTool(BaseModel):
    """tool_choice: exactly this function is called."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["function"]
    function: FunctionName


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("[word]")] | Annotated[NamedTool, Tag("[object]")],
    Discriminator(lambda value: "[object]" if isinstance(value, dict | NamedTool) else "[word]"),
]


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None


class CompletionBody(GenerationBody):
    """POST /v1/completions. `suffix`, `echo` and `best_of` are accepted in the one value that asks for nothing."""

    prompt: Text | TokenIds | Annotated[list[Text] | list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: int | None = Field(default=None, ge=1, le=1)
