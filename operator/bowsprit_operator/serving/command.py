"""The engine's command line for a SpeculativeModel. Pure; knows flags and nothing about pods."""

from __future__ import annotations

from bowsprit_operator.resources import durations, names, quantities
from bowsprit_operator.resources.speculative_model import (
    Consent,
    DrafterEntry,
    Dtype,
    SpeculationSpec,
    SpeculativeModel,
)
from bowsprit_policy.observation import SpeculationMode

_CONSENT = {Consent.ALL: "all", Consent.HEADER_ONLY: "header-only", Consent.NONE: "none"}
_DTYPE = {
    Dtype.AUTO: "auto",
    Dtype.BFLOAT16: "bfloat16",
    Dtype.FLOAT16: "float16",
    Dtype.FLOAT32: "float32",
}


def serve(model: SpeculativeModel) -> list[str]:
    """Arguments of `bowsprit-engine`. Speculator revisions are never among them: they are pushed to running pods."""
    spec = model.spec
    arguments = {
        "--model": spec.model.uri,
        "--served-name": model.served_name,
        "--host": "0.0.0.0",
        "--port": str(names.SERVING_PORT),
        "--control-port": str(names.CONTROL_PORT),
        "--dtype": _DTYPE[spec.model.dtype],
        "--max-batch-size": str(spec.engine.max_batch_size),
        "--kv-cache-memory": quantities.format_bytes(spec.engine.kv_cache_memory),
        "--draft-tokens-max": str(spec.speculation.effective_draft_tokens_max),
        "--speculation": _speculation(spec.speculation),
    }
    if spec.model.max_model_len is not None:
        arguments["--max-model-len"] = str(spec.model.max_model_len)
    pairs = [*arguments.items()]
    pairs += [("--drafter", _drafter(drafter)) for drafter in spec.speculation.drafters]
    pairs += _capture(model)
    return ["serve", *(word for pair in pairs for word in pair)]


def _drafter(drafter: DrafterEntry) -> str:
    word = f"{drafter.name}={drafter.type}"
    return word if drafter.uri is None else f"{word}:{drafter.uri}"


def _speculation(spec: SpeculationSpec) -> str:
    match spec.mode:
        case SpeculationMode.AUTO:
            return "auto"
        case SpeculationMode.OFF:
            return "off"
        case SpeculationMode.FIXED:
            return str(spec.fixed_draft_tokens)


def _capture(model: SpeculativeModel) -> list[tuple[str, str]]:
    training, storage = model.spec.training, model.spec.storage
    if not model.spec.captures_traffic or training is None or storage is None or model.metadata.uid is None:
        return []
    capture = training.capture
    uri = names.capture_uri(
        claim=storage.claim_name, namespace=model.namespace, model_name=model.name, uid=model.metadata.uid
    )
    return [
        ("--capture-uri", uri),
        ("--capture-sample-rate", f"{capture.sample_rate:.6g}"),
        ("--capture-max-tokens", str(capture.max_tokens)),
        ("--capture-retention", durations.format(capture.retention)),
        ("--capture-consent", _CONSENT[capture.consent]),
    ]
