"""Which model is run and how: what `serve`, `bench` and `inspect` are told alike.

Decides what is accepted. Refuses to know ports, requests, and what is done with the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bowsprit_engine.quantities import read_bytes, read_drafter
from bowsprit_policy.wire import DrafterType

Bytes = Annotated[int, BeforeValidator(read_bytes), Field(ge=0)]
DType = Literal["auto", "bfloat16", "float16", "float32"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterChoice:
    """One drafter of the pool: its name in tables and metrics, and how it predicts. `uri`: of a draft model."""

    name: str
    type: DrafterType
    uri: str | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """NAME=TYPE, NAME=Model:URI, or one of the types alone. Raises ValueError naming the types."""
        name, kind, uri = read_drafter(text)
        return cls(name=name, type=kind, uri=uri)


def _read_drafters(value: object) -> object:
    words = value.split() if isinstance(value, str) else value
    if isinstance(words, list | tuple):
        return tuple(DrafterChoice.read(word) if isinstance(word, str) else word for word in words)
    return words


Drafters = Annotated[tuple[DrafterChoice, ...], NoDecode, BeforeValidator(_read_drafters)]


class ProcessSettings(BaseSettings):
    """Of any command."""

    model_config = SettingsConfigDict(
        env_prefix="BOWSPRIT_", frozen=True, extra="forbid", validate_default=False, populate_by_name=True
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severity kept.")


class ModelSettings(ProcessSettings):
    """`bowsprit-engine inspect`, and part of what serves and measures."""

    model: str = Field(description="The model: a .gguf file or a Hugging Face folder, as path, file:// or pvc:// URI.")
    dtype: DType = Field(default="auto", description="How weights are held: auto, bfloat16, float16, float32.")
    device: str = Field(default="auto", description="auto (a GPU where there is one), cpu, cuda, cuda:1 …")
    backend: Literal["auto", "native", "torch", "triton"] = Field(
        default="auto", description="Who computes: auto, native (C++ on the CPU), torch, triton (batch-invariant, GPU)."
    )
    load_format: Literal["auto", "dummy"] = Field(
        default="auto",
        description="dummy: random weights of the config's shape, to measure speed; a folder of config.json is enough.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="Threads of a step.", json_schema_extra={"auto": "the CPUs this process has"}
    )
    max_model_len: int | None = Field(
        default=None,
        ge=2,
        description="Most tokens of a sequence, prompt included.",
        json_schema_extra={"auto": "the model's"},
    )
    max_batch_size: int = Field(default=8, ge=1, le=1024, description="Most sequences in one step.")
    kv_cache_memory: Bytes | None = Field(
        default=None,
        description="Memory of the KV cache, e.g. 2Gi.",
        json_schema_extra={
            "auto": "for a full batch; at most a quarter (on a GPU nine tenths) of what the rest leaves"
        },
    )
    prefill_chunk: int = Field(default=256, ge=1, description="Most prompt tokens of one step, over all sequences.")
    prefill_delay_steps: float = Field(
        default=1.5,
        ge=0,
        description="Most that prompt tokens delay running streams by in a step, in steps without them.",
    )
    prefix_cache: Literal["on", "off"] = Field(
        default="on", description="Whether requests of one tenant share the KV cache of what they have in common."
    )
    draft_tokens_max: int = Field(default=8, ge=0, le=64, description="Most draft tokens of a sequence in one step.")
    drafter: Drafters = Field(
        default=(
            DrafterChoice(name="suffix", type=DrafterType.SUFFIX),
            DrafterChoice(name="head", type=DrafterType.HEAD),
        ),
        description="A drafter as NAME=TYPE (NGram, Suffix, Head) or NAME=Model:URI, a small model of the same "
        "vocabulary; repeatable. A head drafts once a speculator is loaded.",
        json_schema_extra={"auto": "suffix=Suffix head=Head"},
    )

    suffix_sharing: Literal["tenant", "all"] = Field(
        default="tenant",
        description="Whose recent answers a Suffix drafter looks up: the tenant's own, or everybody's, which lets the "
        "speed of an answer tell that somebody else was told it before.",
    )

    @field_validator("drafter", mode="after")
    @classmethod
    def _names_differ(cls, drafters: tuple[DrafterChoice, ...]) -> tuple[DrafterChoice, ...]:
        names = [drafter.name for drafter in drafters]
        if len(set(names)) != len(names):
            raise ValueError(f"two drafters share a name: {' '.join(names)}")
        return drafters
