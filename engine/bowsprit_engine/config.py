"""What the commands can be told: every field is a flag, an environment variable BOWSPRIT_<FIELD>, and a line of --help.

Units are parsed here and nowhere else. Knows no defaults that depend on the machine: "auto" is resolved by whoever
builds the engine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bowsprit_policy.wire import DrafterType, Sha256

_BYTES = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_bytes(text: Any) -> Any:
    """A Kubernetes quantity such as 2Gi, in bytes. Raises ValueError naming the text and the units."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{text!r} is no size: a number and one of {', '.join(unit for unit in _BYTES if unit)}")
    return int(float(match[1]) * _BYTES[match[2]])


def parse_seconds(text: Any) -> Any:
    """A duration such as 1h30m (GEP-2257), in seconds; a bare number is seconds. Raises ValueError naming the text."""
    if not isinstance(text, str):
        return text
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    parts = re.findall(r"(\d+)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise ValueError(f"{text!r} is no duration: numbers each with one of h, m, s, ms, such as 168h or 1h30m")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


def parse_speculation(text: Any) -> Any:
    """auto, off, or a fixed number of draft tokens."""
    if isinstance(text, str) and text not in ("auto", "off"):
        if not text.isdigit():
            raise ValueError(f"{text!r} is neither auto nor off nor a number of draft tokens")
        return int(text)
    return text


def parse_drafter(text: str) -> tuple[str, DrafterType]:
    """NAME=TYPE, or a type's own lower-case name alone (ngram, head). Raises ValueError naming the types."""
    name, _, type_name = text.partition("=")
    by_lower_name = {type_.value.lower(): type_ for type_ in DrafterType}
    type_ = by_lower_name.get((type_name or name).lower())
    if not name or type_ is None:
        choices = ", ".join(type_.value for type_ in DrafterType)
        raise ValueError(f"{text!r} is no drafter: NAME=TYPE with TYPE one of {choices}")
    return name, type_


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
Speculation = Annotated[Literal["auto", "off"] | int, BeforeValidator(parse_speculation)]


class Settings(BaseSettings):
    """What every command shares: where the model is and who may use the control port."""

    model_config = SettingsConfigDict(
        env_prefix="BOWSPRIT_",
        frozen=True,
        extra="ignore",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        protected_namespaces=(),
    )

    model: str = Field(description="Path or URI (file://, pvc://) of a .gguf file or a Hugging Face folder.")
    control_port: int = Field(default=8001, ge=0, le=65535, description="Port of health, metrics and control.")
    control_jwks_file: Path | None = Field(
        default=None, description="Keys that sign control tokens; without it the control port is on loopback only."
    )
    control_issuer: str | None = Field(default=None, description="Issuer that a control token must name.")
    control_audience: str = Field(default="bowsprit-engine", description="Audience that a control token must name.")
    control_subject: str = Field(
        default="system:serviceaccount:bowsprit-system:bowsprit-operator",
        description="The only subject whose control tokens are accepted.",
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads; default: the CPUs this process may use.")

    @property
    def control_host(self) -> str:
        """Every address with a token to check, loopback without."""
        return "0.0.0.0" if self.control_jwks_file is not None else "127.0.0.1"


class ServeSettings(Settings):
    """Serve a model over the OpenAI API, with speculation."""

    served_name: str | None = Field(default=None, description="Model name in the API; default: the file's name.")
    host: str = Field(default="127.0.0.1", description="Address of the OpenAI API.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port of the OpenAI API.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(default="auto", description="Weights' type.")
    device: str = Field(default="auto", description="auto, cpu, or cuda.")
    backend: Literal["auto", "native", "torch"] = Field(default="auto", description="Who executes the model.")
    load_format: Literal["auto", "dummy"] = Field(default="auto", description="dummy: random weights, for benchmarks.")
    max_model_len: int | None = Field(default=None, ge=2, description="Longest sequence in tokens; default: model's.")
    max_batch_size: int = Field(default=16, ge=1, le=256, description="Sequences decoded together.")
    kv_cache_memory: Bytes = Field(default=2 * 2**30, gt=0, description="Memory of the KV cache, such as 2Gi.")
    prefill_chunk: int = Field(default=256, ge=16, le=8192, description="Most prompt tokens per step.")
    draft_tokens_max: int = Field(default=8, ge=0, le=16, description="Most draft tokens of a sequence in a step.")
    drafter: list[str] = Field(
        default=["ngram=NGram"], description="NAME=TYPE of a drafter, repeatable; types: NGram, Head."
    )
    speculation: Speculation = Field(default="auto", description="auto, off, or a fixed number of draft tokens.")
    metrics_prefix: Literal["bowsprit", "vllm"] = Field(default="bowsprit", description="Prefix of metric names.")
    max_body_bytes: Bytes = Field(default=4 * 2**20, gt=0, description="Largest request body, such as 4Mi.")
    drain_seconds: Seconds = Field(default=30.0, ge=0, description="How long running requests may finish on SIGTERM.")
    capture_uri: str | None = Field(default=None, description="Folder (file://) for captured traffic; default: none.")
    capture_sample_rate: float = Field(default=1.0, ge=0, le=1, description="Share of requests that is captured.")
    capture_max_tokens: int = Field(default=2_000_000, ge=0, description="Most captured tokens kept by this pod.")
    capture_retention: Seconds = Field(default=168 * 3600.0, gt=0, description="Age at which shards are deleted.")
    capture_consent: Literal["all", "header-only", "none"] = Field(
        default="all", description="header-only: only requests with x-bowsprit-capture: allow."
    )
    capture_flush_seconds: Seconds = Field(default=10.0, gt=0, description="Longest time before a shard is written.")
    capture_flush_requests: int = Field(default=64, ge=1, description="Most requests before a shard is written.")

    @field_validator("drafter")
    @classmethod
    def _drafters_are_named_once(cls, drafters: list[str]) -> list[str]:
        names = [parse_drafter(drafter)[0] for drafter in drafters]
        if len(set(names)) != len(names):
            raise ValueError(f"two drafters share a name: {names}")
        return drafters

    @property
    def drafters(self) -> tuple[tuple[str, DrafterType], ...]:
        """(name, type) in order of preference."""
        return tuple(parse_drafter(drafter) for drafter in self.drafter)


class TrainSettings(Settings):
    """Train one speculator on captured traffic, judge it, store it, and write the result to the termination log."""

    model_name: str = Field(description="The served name of the model whose traffic this is.")
    capture_uri: str = Field(description="Folder (file://) with the captured shards.")
    output_uri: str = Field(description="Folder (file://) that the speculator is stored in.")
    revision: str = Field(description="Name of the revision that this run makes.")
    drafter: str = Field(default="head", description="Name of the drafter that is trained.")
    parent_uri: str | None = Field(default=None, description="The incumbent's folder: warm start and comparison.")
    parent_sha256: Sha256 | None = Field(default=None, description="Expected sha256 of the incumbent's weights.")
    parent_revision: str | None = Field(default=None, description="Name of the incumbent's revision.")
    base_uri: str | None = Field(default=None, description="Folder with the base sample, for replay and judging.")
    min_holdout_requests: int = Field(default=200, ge=1, description="Fewest held-out requests to judge on.")
    draft_tokens: int = Field(default=4, ge=1, le=16, description="Draft tokens that are trained and judged.")
    deadline_seconds: Seconds = Field(default=3600.0, gt=0, description="The run ends before, with what it has.")
    termination_log: Path = Field(default=Path("/dev/termination-log"), description="Where the result is written.")
