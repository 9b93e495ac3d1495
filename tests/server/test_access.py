"""Who may use the control port: the operator's own token, and none that differs from it in anything."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bowsprit_engine.server.access import Access, Trust, UnauthorizedError
from server.running_server import Serve

ISSUER = "https://kubernetes.default.svc"
SUBJECT = "system:serviceaccount:bowsprit-system:bowsprit-operator"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def claims(**changes: Any) -> dict[str, Any]:
    usual = {"iss": ISSUER, "aud": ["bowsprit-engine"], "sub": SUBJECT, "exp": time.time() + 600}
    return {key: value for key, value in (usual | changes).items() if value is not None}


def token(key: Any = KEY, *, key_id: str = "k1", algorithm: str = "RS256", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": key_id})


def write_keys(path: Path, keys: dict[str, Any]) -> None:
    shapes = []
    for key_id, key in keys.items():
        kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        shapes.append({**json.loads(kind.to_jwk(key.public_key())), "kid": key_id, "use": "sig"})
    path.write_text(json.dumps({"keys": shapes}))


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    path = tmp_path / "jwks.json"
    write_keys(path, {"k1": KEY, "e1": EC_KEY})
    return Trust(jwks_file=path, issuer=ISSUER, audience="bowsprit-engine", subject=SUBJECT)


def test_the_operators_token_is_accepted(trust: Trust) -> None:
    """Signed by any of the cluster's keys."""
    access = Access(trust)
    access.check(f"Bearer {token()}")
    access.check(f"bearer {token(EC_KEY, key_id='e1', algorithm='ES256')}")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer not.a.token",
        f"Bearer {token(sub='system:serviceaccount:default:somebody')}",
        f"Bearer {token(aud=['another'])}",
        f"Bearer {token(iss='https://elsewhere')}",
        f"Bearer {token(exp=time.time() - 600)}",
        f"Bearer {token(exp=None)}",
        f"Bearer {token(sub=None)}",
        f"Bearer {token(OTHER_KEY)}",
        f"Bearer {token(key_id='unknown')}",
        f"Bearer {jwt.encode(claims(), 'x' * 64, algorithm='HS256', headers={'kid': 'k1'})}",
        f"Bearer {jwt.encode(claims(), None, algorithm='none', headers={'kid': 'k1'})}",
        f"Bearer {token(EC_KEY, algorithm='ES256')}",
    ],
)
def test_any_other_token_is_refused_without_saying_why(trust: Trust, authorization: str | None) -> None:
    """Wrong subject, audience, issuer, time, key, algorithm, or no token at all."""
    with pytest.raises(UnauthorizedError) as refusal:
        Access(trust).check(authorization)
    assert str(refusal.value) in ("a bearer token is needed", "the bearer token is not accepted")


def test_rotated_keys_are_read_when_their_file_changes(trust: Trust) -> None:
    """New keys are accepted, old ones no more; a file that went bad keeps the last good ones."""
    access = Access(trust)
    access.check(f"Bearer {token()}")
    write_keys(trust.jwks_file, {"k2": OTHER_KEY})
    access.check(f"Bearer {token(OTHER_KEY, key_id='k2')}")
    with pytest.raises(UnauthorizedError):
        access.check(f"Bearer {token()}")
    trust.jwks_file.write_text("{")
    access.check(f"Bearer {token(OTHER_KEY, key_id='k2')}")


def test_a_missing_key_file_refuses_everybody(trust: Trust) -> None:
    """Never the other way round."""
    trust.jwks_file.unlink()
    with pytest.raises(UnauthorizedError):
        Access(trust).check(f"Bearer {token()}")


async def test_calls_need_the_token_and_probes_and_metrics_dont(serve: Serve, trust: Trust) -> None:
    """401 names the scheme, and is given before the body is looked at."""
    server = await serve(trust=trust)
    for method, path in (("GET", "stats"), ("PUT", "policy"), ("PUT", "drafters/head"), ("POST", "drain")):
        answer = await server.control.request(method, f"/control/v1/{path}", content=b"{no JSON")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    allowed = await server.control.get("/control/v1/stats", headers={"authorization": f"Bearer {token()}"})
    open_paths = [await server.control.get(path) for path in ("/healthz", "/readyz", "/metrics")]
    assert [answer.status_code for answer in (allowed, *open_paths)] == [200] * 4
