"""Where a model URI points."""

from pathlib import Path

import pytest

from bowsprit_engine.errors import ModelError
from bowsprit_engine.models.uri import resolve_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/models/smollm2", "/models/smollm2"),
        ("relative/model.gguf", "relative/model.gguf"),
        ("file:///models/a%20b.gguf", "/models/a b.gguf"),
        ("pvc://models/smollm2/model.gguf", "/somewhere/models/smollm2/model.gguf"),
        ("pvc://models", "/somewhere/models"),
    ],
)
def test_a_uri_names_one_path(monkeypatch, uri, expected):
    """Plain paths stay, file URIs are decoded, claims lie under the folder of claims."""
    monkeypatch.setenv("BOWSPRIT_CLAIMS_DIR", "/somewhere")

    assert Path(expected) == resolve_uri(uri)


def test_claims_are_mounted_under_claims_by_default(monkeypatch):
    """Without BOWSPRIT_CLAIMS_DIR it is where the operator mounts them."""
    monkeypatch.delenv("BOWSPRIT_CLAIMS_DIR", raising=False)

    assert Path("/claims/models/m.gguf") == resolve_uri("pvc://models/m.gguf")


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("", "it is empty"),
        ("pvc:///m.gguf", "it names no claim"),
        ("pvc://models/../secrets", "it leaves its claim"),
        ("pvc://../secrets", "it leaves its claim"),
        ("file://host/m.gguf", "names no host"),
        ("hf://org/model", "its scheme 'hf' is not one of: file:///path, pvc://claim/path, a plain path"),
    ],
)
def test_a_uri_that_names_no_local_path_is_refused_with_its_cause(uri, cause):
    """The message holds the URI and what is wrong with it."""
    with pytest.raises(ModelError) as refused:
        resolve_uri(uri)

    assert cause in str(refused.value)
    assert repr(uri) in str(refused.value)
