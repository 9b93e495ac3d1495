"""Names of everything that belongs to a SpeculativeModel, and where its artifacts lie on the storage claim.

Refuses to know which of them exist.
"""

from __future__ import annotations

CONTROL_PORT = 8001
SERVING_PORT = 8000
CLAIMS_FOLDER = "/claims"
JWKS_KEY = "jwks.json"
LEARNING_LOOP = "bowsprit-learning-loop"  # field manager of all that learning writes


def deployment(model_name: str) -> str:
    return model_name


def service(model_name: str) -> str:
    return model_name


def pod_disruption_budget(model_name: str) -> str:
    return model_name


def network_policy(model_name: str) -> str:
    return model_name


def service_account(model_name: str) -> str:
    return f"{model_name}-engine"


def control_keys(model_name: str) -> str:
    return f"{model_name}-control-keys"


def draft_policy(model_name: str) -> str:
    return model_name


def revision(model_name: str, drafter: str, number: int) -> str:
    """At most 63 characters for numbers below 100,000: a model's name has at most 40, a drafter's 16."""
    return f"{model_name}-{drafter}-{number}"


def training(model_name: str, drafter: str, number: int) -> str:
    """A training run is named like the revision that it makes, and so is its Job."""
    return revision(model_name, drafter, number)


def revision_number(name: str, *, model_name: str, drafter: str) -> int | None:
    """The n of a revision's name, None when it isn't one of this model and drafter."""
    prefix = f"{model_name}-{drafter}-"
    rest = name.removeprefix(prefix)
    return int(rest) if name.startswith(prefix) and rest.isdecimal() else None


def model_folder(*, claim: str, namespace: str, model_name: str, uid: str) -> str:
    """Everything of one SpeculativeModel on storage; the uid keeps a re-created one out of it."""
    return f"file://{CLAIMS_FOLDER}/{claim}/{namespace}/{model_name}/{uid}"


def capture_uri(*, claim: str, namespace: str, model_name: str, uid: str) -> str:
    return f"{model_folder(claim=claim, namespace=namespace, model_name=model_name, uid=uid)}/capture"


def speculator_uri(*, claim: str, namespace: str, model_name: str, uid: str, revision: str) -> str:
    return f"{model_folder(claim=claim, namespace=namespace, model_name=model_name, uid=uid)}/speculators/{revision}"


def claim_of(uri: str) -> str | None:
    """The claim of a pvc:// uri, None for other schemes."""
    return uri.removeprefix("pvc://").split("/", 1)[0] if uri.startswith("pvc://") else None
