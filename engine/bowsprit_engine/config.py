"""What a process of the engine was told: flags and environment variables BOWSPRIT_*, checked and resolved once.

Every field is a flag (`max_batch_size` is --max-batch-size) and an environment variable (BOWSPRIT_MAX_BATCH_SIZE); the
flag wins. Decides what is accepted and what "auto" means where that needs no model. Refuses to know models, HTTP and
what is done with the values.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import NoDecode

from bowsprit_engine.errors import CallerError
from bowsprit_engine.model_settings import Bytes, Drafters, ModelSettings, ProcessSettings
from bowsprit_engine.quantities import read_seconds, read_speculation, read_words
from bowsprit_policy.wire import COUNT_BASED

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, BeforeValidator(read_seconds), Field(ge=0)]
Mode = Annotated[Literal["auto", "off"] | int, BeforeValidator(read_speculation)]
LOOPBACK = "127.0.0.1"


class ControlSettings(ProcessSettings):
    """Who may use the control port. Without a JWKS file it asks for no token and listens on loopback only."""

    host: str = Field(default=LOOPBACK, description="Address of the serving port, and of a control port with tokens.")
    control_port: Port = Field(default=8001, description="Health, metrics and the operator's calls; 0: any free port.")
    control_jwks_file: Path | None = Field(
        default=None,
        description="Public keys (JWKS) of the cluster's ServiceAccount tokens. Without it no token is asked for and "
        "the control port listens on loopback only.",
    )
    control_issuer: str | None = Field(default=None, description="Issuer that a token must name.")
    control_audience: str = Field(default="bowsprit-engine", description="Audience that a token must name.")
    control_subject: str | None = Field(default=None, description="Subject that a token must name: the operator.")

    @property
    def control_host(self) -> str:
        return LOOPBACK if self.control_jwks_file is None else self.host

    @model_validator(mode="after")
    def _trust_is_complete(self) -> Self:
        if self.control_jwks_file is not None and (self.control_issuer is None or self.control_subject is None):
            raise ValueError("control_jwks_file needs control_issuer and control_subject beside it")
        return self


class ServeSettings(ControlSettings, ModelSettings):
    """`bowsprit-engine serve`."""

    served_name: str = Field(default="", description="Name that requests use.", json_schema_extra={"auto": "file name"})
    port: Port = Field(default=8000, description="The OpenAI port; 0: any free port.")
    max_waiting: int = Field(default=256, ge=0, description="Most requests that wait; one more gets a 429.")
    speculation: Mode = Field(
        default="auto", description="auto (what pays, up to the maximum), off, or a fixed number of draft tokens."
    )
    tool_format: str = Field(
        default="auto",
        description="How the model writes calls of functions: auto, smollm2, hermes, llama3_json.",
        json_schema_extra={"auto": "what its chat template teaches"},
    )
    metrics_prefix: Literal["bowsprit", "vllm"] = Field(
        default="bowsprit", description="vllm: names that vLLM's dashboards read."
    )
    max_body_bytes: Bytes = Field(default=8 << 20, description="Largest request body, e.g. 8Mi.")
    drain_seconds: Seconds = Field(default=45.0, description="How long running streams may take after SIGTERM.")
    capture_uri: str | None = Field(
        default=None,
        description="Folder that captured traffic is written to (file:// or pvc://).",
        json_schema_extra={"auto": "nothing is captured"},
    )
    capture_consent: Literal["all", "header-only", "none"] = Field(
        default="all", description="Whose requests are kept; header-only: those with `x-bowsprit-capture: allow`."
    )
    capture_sample_rate: float = Field(default=1.0, ge=0, le=1, description="Share of the requests that are kept.")
    capture_max_tokens: int = Field(
        default=2_000_000, ge=0, description="Tokens kept, prompts included; the oldest go."
    )
    capture_retention: Seconds = Field(default=7 * 86400.0, description="Age at which shards are deleted, e.g. 168h.")
    capture_flush_seconds: Seconds = Field(default=10.0, description="A shard is written at least this often …")
    capture_flush_requests: int = Field(default=64, ge=1, description="… or after so many requests.")
    pod_name: str = Field(default_factory=socket.gethostname, validation_alias=AliasChoices("pod_name", "POD_NAME"))
    pod_uid: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}",
        validation_alias=AliasChoices("pod_uid", "POD_UID"),
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The file's or folder's name, without .gguf."""
        if not values.get("served_name") and isinstance(values.get("model"), str):
            path = PurePosixPath(urlsplit(values["model"]).path.rstrip("/"))
            return values | {"served_name": path.stem if path.suffix == ".gguf" else path.name or "model"}
        return values

    @model_validator(mode="after")
    def _speculation_fits(self) -> Self:
        if isinstance(self.speculation, int) and not 0 <= self.speculation <= self.draft_tokens_max:
            raise ValueError(
                f"speculation {self.speculation} is not within 0 and draft_tokens_max {self.draft_tokens_max}"
            )
        return self


class BenchSettings(ModelSettings):
    """`bowsprit-engine bench`: one model against itself, in every mode and at every batch size."""

    prompts: Path | None = Field(
        default=None,
        description='JSONL file of prompts: strings, {"prompt": …} or {"messages": […]}.',
        json_schema_extra={"auto": "eight built-in ones"},
    )
    modes: Annotated[tuple[Mode, ...], NoDecode, BeforeValidator(read_words)] = Field(
        default=("off", "auto", 4),
        description="Modes to compare, as --speculation of serve: off, auto, numbers of draft tokens.",
        json_schema_extra={"auto": "off auto 4"},
        min_length=1,
    )
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], NoDecode, BeforeValidator(read_words)] = (
        Field(
            default=(1, 4),
            description="Requests at a time, one after another.",
            json_schema_extra={"auto": "1 4"},
            min_length=1,
        )
    )
    rounds: int = Field(default=3, ge=1, description="How often everything is measured, modes in turn.")
    repeat: int = Field(default=1, ge=1, description="How often each prompt is asked in a round.")
    max_tokens: int = Field(default=64, ge=1, description="Tokens of each answer.")
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 is greedy; seeds are the same in every mode.")
    ignore_eos: bool = Field(default=True, description="Whether answers go on to --max-tokens: true, false.")
    speculator_uri: str | None = Field(
        default=None,
        description="Folder of a trained speculator for the drafters of type Head.",
        json_schema_extra={"auto": "heads don't draft"},
    )
    json_file: Path | None = Field(
        default=None, description="File for the figures.", json_schema_extra={"auto": "the table only"}
    )

    @model_validator(mode="after")
    def _modes_fit(self) -> Self:
        for mode in self.modes:
            if isinstance(mode, int) and not 0 <= mode <= self.draft_tokens_max:
                raise ValueError(f"mode {mode} is not within 0 and draft_tokens_max {self.draft_tokens_max}")
        return self


class TrainSettings(ControlSettings):
    """`bowsprit-engine train`: one run, from captured traffic to an evaluated speculator."""

    host: str = Field(default="0.0.0.0", description="Address of a control port with tokens.")
    model: str = Field(description="The target model, as `serve` takes it.")
    capture_uri: str = Field(description="Folder of captured traffic.")
    output_uri: str = Field(description="Folder that the speculator is written to.")
    revision: str = Field(min_length=1, max_length=253, description="Name of the speculator's revision.")
    drafter: str = Field(default="head", description="Name of the drafter that it is for.")
    model_name: str = Field(default="", description="The model's served name, for the record.")
    parent_uri: str | None = Field(default=None, description="Speculator in use: started from and compared with.")
    parent_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Of its weights file.")
    parent_revision: str | None = Field(default=None, description="Its revision.")
    base_uri: str | None = Field(default=None, description="Folder of the base sample that is replayed and judged too.")
    min_holdout_requests: int = Field(default=200, ge=1, description="Least requests that the evaluation rests on.")
    draft_tokens: int = Field(
        default=4, ge=1, le=64, description="Draft tokens that the head is trained and judged for."
    )
    draft_tokens_max: int = Field(
        default=8, ge=1, le=64, description="Most draft tokens of a sequence in one step, as `serve` takes it."
    )
    beside: Drafters = Field(
        default=(),
        description="A drafter that serves beside the head, NAME=TYPE (NGram, Suffix); repeatable. The head is judged "
        "in one pool with them.",
        json_schema_extra={"auto": "none, the head is judged alone"},
    )
    deadline_seconds: Seconds = Field(default=3600.0, description="The run ends itself by then, and says so.")
    threads: int = Field(default=1, ge=1, description="Threads; one leaves the machine to the engines.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Newest captured tokens that are read.", json_schema_extra={"auto": "all"}
    )
    scratch_dir: Path | None = Field(
        default=None,
        description="Folder on a disk for the target's states while the run works; nothing is left there.",
        json_schema_extra={"auto": "beside the output"},
    )
    scratch_limit: Bytes = Field(
        default=16 << 30, description="Most bytes of states, e.g. 16Gi: fewer of the captured tokens are learned from."
    )
    termination_log: Path | None = Field(
        default=None,
        description="File for the result, e.g. /dev/termination-log.",
        json_schema_extra={"auto": "standard output"},
    )

    @model_validator(mode="after")
    def _pool_can_be_judged(self) -> Self:
        if self.draft_tokens > self.draft_tokens_max:
            raise ValueError(f"draft_tokens {self.draft_tokens} is above draft_tokens_max {self.draft_tokens_max}")
        for drafter in self.beside:
            if drafter.type not in COUNT_BASED:
                types = " and ".join(sorted(COUNT_BASED))
                raise ValueError(f"beside: {drafter.name} is of type {drafter.type}; replayed are {types} alone")
        names = [drafter.name for drafter in self.beside]
        if len({*names, self.drafter}) <= len(names):
            raise ValueError(f"two drafters share a name: {' '.join([*names, self.drafter])}")
        return self


SettingsT = TypeVar("SettingsT", bound=ProcessSettings)


def settings_from(kind: type[SettingsT], given: Mapping[str, Any]) -> SettingsT:
    """Settings from what was given as flags, the environment and the defaults.

    Raises CallerError: one line per bad value, each naming the flag, the value and the limit.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        lines = [_explained(dict(problem)) for problem in error.errors()]
        raise CallerError("\n".join(lines), param=str(next(iter(error.errors()[0]["loc"]), ""))) from error


def _explained(problem: dict[str, Any]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    flag = "--" + str(problem["loc"][0]).replace("_", "-")
    if problem["type"] == "missing":
        return f"{flag} is missing"
    return f"{flag}: {problem['input']!r} is not accepted: {message}"
