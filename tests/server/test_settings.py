"""Flags and environment: one source, the flag wins, and a bad value is named with its limit."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from bowsprit_engine import options
from bowsprit_engine.__main__ import application
from bowsprit_engine.config import BenchSettings, ServeSettings, TrainSettings, settings_from
from bowsprit_engine.errors import CallerError
from bowsprit_engine.model_settings import DrafterChoice, ModelSettings, ProcessSettings
from bowsprit_engine.options import POD_FIELDS
from bowsprit_policy.wire import DrafterType

HEAD = DrafterChoice(name="head", type=DrafterType.HEAD)
NGRAM = DrafterChoice(name="ngram", type=DrafterType.NGRAM)


def serve_settings(**given: object) -> ServeSettings:
    return settings_from(ServeSettings, {"model": "file:///models/SmolLM2.gguf", **given})


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each field the same name."""
    monkeypatch.setenv("BOWSPRIT_MAX_BATCH_SIZE", "3")
    monkeypatch.setenv("BOWSPRIT_DRAFTER", "head=Head ngram")
    monkeypatch.setenv("POD_UID", "uid-1")
    settings = serve_settings()
    assert (settings.max_batch_size, settings.drafter, settings.pod_uid) == (3, (HEAD, NGRAM), "uid-1")
    assert serve_settings(max_batch_size="5").max_batch_size == 5


@pytest.mark.parametrize("kind", [ServeSettings, BenchSettings])
def test_without_a_list_look_up_in_recent_answers_drafts_and_a_head_once_it_is_loaded(
    kind: type[ModelSettings],
) -> None:
    """An engine that nobody configures; `--help` says the same."""
    settings = settings_from(kind, {"model": "file:///models/SmolLM2.gguf"})
    assert settings.drafter == (DrafterChoice(name="suffix", type=DrafterType.SUFFIX), HEAD)
    told = kind.model_fields["drafter"].json_schema_extra
    assert told == {"auto": " ".join(f"{each.name}={each.type}" for each in settings.drafter)}


def test_sizes_durations_and_choices_are_read_as_kubernetes_writes_them() -> None:
    """What the operator puts on the command line."""
    settings = serve_settings(
        kv_cache_memory="2Gi", capture_retention="1h30m", speculation="4", drafter=["ngram=NGram", "head=Head"]
    )
    assert settings.kv_cache_memory == 2 * 2**30
    assert settings.capture_retention == 5400.0
    assert settings.speculation == 4
    assert settings.drafter == (NGRAM, HEAD)


def test_a_draft_model_is_named_with_its_uri() -> None:
    """Whatever the URI has in it."""
    expected = DrafterChoice(name="small", type=DrafterType.MODEL, uri="pvc://models/a=b/c:d")
    assert serve_settings(drafter=["small=Model:pvc://models/a=b/c:d"]).drafter == (expected,)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("file:///models/SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"),
        ("pvc://models/smollm2/", "smollm2"),
        ("models/x", "x"),
    ],
)
def test_a_model_is_served_under_its_file_name_unless_told_otherwise(uri: str, name: str) -> None:
    """Without .gguf."""
    assert serve_settings(model=uri).served_name == name
    assert serve_settings(model=uri, served_name="n").served_name == "n"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max_batch_size": "0"}, ("--max-batch-size", "'0'", "1")),
        ({"port": "70000"}, ("--port", "'70000'", "65535")),
        ({"kv_cache_memory": "2Q"}, ("--kv-cache-memory", "'2Q'", "Gi")),
        ({"capture_retention": "soon"}, ("--capture-retention", "'soon'", "168h")),
        ({"speculation": "9", "draft_tokens_max": "8"}, ("speculation 9", "draft_tokens_max 8")),
        ({"drafter": ["x=Crystal"]}, ("--drafter", "x=Crystal", "NGram, Suffix, Head, Model")),
        ({"drafter": ["a=NGram", "a=Head"]}, ("share a name",)),
        ({"drafter": ["small=Model"]}, ("--drafter", "small=Model", "NAME=TYPE:URI")),
        ({"drafter": ["ngram=NGram:/models/x"]}, ("--drafter", "ngram=NGram:/models/x", "NAME=TYPE:URI")),
        ({"dtype": "int4"}, ("--dtype", "'int4'", "bfloat16")),
        ({"control_jwks_file": "/keys"}, ("control_issuer", "control_subject")),
    ],
)
def test_a_bad_value_is_named_with_its_flag_and_limit(given: dict[str, object], words: tuple[str, ...]) -> None:
    """One line per value."""
    with pytest.raises(CallerError) as refusal:
        serve_settings(**given)
    assert [word for word in words if word not in str(refusal.value)] == []


def test_without_keys_the_control_port_listens_on_loopback_only() -> None:
    """Whatever the host of the serving port is."""
    trusted = serve_settings(
        host="0.0.0.0", control_jwks_file="/keys", control_issuer="https://i", control_subject="system:x"
    )
    assert serve_settings(host="0.0.0.0").control_host == "127.0.0.1"
    assert trusted.control_host == "0.0.0.0"


def test_the_trainers_command_line_is_read() -> None:
    """As the operator writes it."""
    settings = settings_from(
        TrainSettings,
        {
            "model": "pvc://models/smollm2",
            "capture_uri": "file:///claims/c/n/m/u/capture",
            "output_uri": "file:///claims/c/n/m/u/speculators/r-1",
            "revision": "r-1",
            "deadline_seconds": "3570",
            "threads": "1",
            "termination_log": "/dev/termination-log",
        },
    )
    assert (settings.deadline_seconds, settings.min_holdout_requests, settings.drafter) == (3570.0, 200, "head")


def test_the_command_line_says_all_that_is_wrong_and_exits_2() -> None:
    """Without a traceback."""
    result = CliRunner().invoke(application, ["serve", "--max-batch-size", "0"])
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
    assert "--model is missing" in result.output
    assert "--max-batch-size: '0'" in result.output


@pytest.mark.parametrize(
    ("command", "settings"),
    [("serve", ServeSettings), ("train", TrainSettings), ("inspect", ModelSettings), ("bench", BenchSettings)],
)
def test_help_names_every_flag_with_its_environment_variable_and_shows_an_example(
    command: str, settings: type[ProcessSettings]
) -> None:
    """So that nobody has to guess."""
    result = CliRunner().invoke(application, [command, "--help"], terminal_width=200)
    fields = [name for name in settings.model_fields if name not in POD_FIELDS]
    assert result.exit_code == 0
    assert [name for name in fields if f"--{name.replace('_', '-')} " not in result.output] == []
    assert [name for name in fields if f"BOWSPRIT_{name.upper()}]" not in result.output] == []
    assert f"    bowsprit-engine {command} --model" in result.output


def test_the_whole_configuration_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words, numbers, sizes, durations, lists and paths: nothing but the command is on the command line."""
    environment = {
        "MODEL": "file:///models/x.gguf",
        "PORT": "1234",
        "KV_CACHE_MEMORY": "1Gi",
        "DRAIN_SECONDS": "1m30s",
        "PREFIX_CACHE": "off",
        "PREFILL_DELAY_STEPS": "0.5",
        "MAX_WAITING": "7",
        "SPECULATION": "3",
        "DRAFTER": "ngram=NGram",
        "LOG_LEVEL": "error",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"BOWSPRIT_{name}", value)
    told: list[ServeSettings] = []
    program = typer.Typer()
    program.command()(options.command(ServeSettings, told.append))

    result = CliRunner().invoke(program, [])

    assert result.exit_code == 0, result.output
    assert {name: getattr(told[0], name.lower()) for name in environment} == {
        "MODEL": "file:///models/x.gguf",
        "PORT": 1234,
        "KV_CACHE_MEMORY": 2**30,
        "DRAIN_SECONDS": 90.0,
        "PREFIX_CACHE": "off",
        "PREFILL_DELAY_STEPS": 0.5,
        "MAX_WAITING": 7,
        "SPECULATION": 3,
        "DRAFTER": (NGRAM,),
        "LOG_LEVEL": "error",
    }


def test_words_of_a_list_are_divided_by_spaces_commas_or_flags() -> None:
    """As a shell, a manifest and an environment variable write them."""
    given = {"model": "x", "modes": ["off auto", "2"], "batch_sizes": "1,4, 8"}
    settings = settings_from(BenchSettings, given)
    assert (settings.modes, settings.batch_sizes) == (("off", "auto", 2), (1, 4, 8))
