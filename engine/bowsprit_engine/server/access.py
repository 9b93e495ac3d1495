"""Who may use the control port: bearers of a ServiceAccount token of the operator, and nobody else.

Checks signature, issuer, audience, expiry and subject against the cluster's public keys, which are read again when
their file changes. What was wrong with a token is logged, never told. Knows neither HTTP nor Kubernetes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import jwt

from bowsprit_engine.config import ControlSettings
from bowsprit_engine.errors import EngineError

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")  # what API servers sign with; never a shared secret
LEEWAY_SECONDS = 10


class UnauthorizedError(EngineError):
    """The caller is not who may call. The message tells no more than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose tokens are accepted."""

    jwks_file: Path
    issuer: str
    audience: str
    subject: str

    @classmethod
    def of(cls, settings: ControlSettings) -> Trust | None:
        """None when no token is asked for (the port is then on loopback)."""
        if settings.control_jwks_file is None:
            return None
        return cls(
            jwks_file=settings.control_jwks_file,
            issuer=settings.control_issuer or "",
            audience=settings.control_audience,
            subject=settings.control_subject or "",
        )


class Access:
    """Checks `Authorization` headers. Without trust everybody may call."""

    def __init__(self, trust: Trust | None) -> None:
        self._trust = trust
        self._keys: dict[str, jwt.PyJWK] = {}
        self._version: tuple[int, int, int] | None = None

    def check(self, authorization: str | None) -> None:
        """Raises UnauthorizedError."""
        if self._trust is None:
            return
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise UnauthorizedError("a bearer token is needed")
        try:
            self._verify(token.strip(), self._trust)
        except (jwt.PyJWTError, KeyError, ValueError, TypeError, OSError) as error:  # TypeError: a key of another kind
            logger.warning("a control call was refused: %s: %s", type(error).__name__, error)
            raise UnauthorizedError("the bearer token is not accepted") from error

    def _verify(self, token: str, trust: Trust) -> None:
        key_id = jwt.get_unverified_header(token).get("kid")
        key = self._current_keys(trust.jwks_file).get(str(key_id))
        if key is None:
            raise KeyError(f"no key {key_id!r} in {trust.jwks_file}")
        claims = jwt.decode(
            token,
            key.key,
            algorithms=ALGORITHMS,
            audience=trust.audience,
            issuer=trust.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        if claims["sub"] != trust.subject:
            raise ValueError(f"subject {claims['sub']!r} is not {trust.subject!r}")

    def _current_keys(self, path: Path) -> dict[str, jwt.PyJWK]:
        """The file's keys by id. A file that went bad keeps the last good keys in force, and is read again."""
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if version != self._version:
            try:
                found = jwt.PyJWKSet.from_dict(json.loads(path.read_text())).keys
                self._keys = {str(key.key_id): key for key in found if key.key_id is not None}
                self._version = version
            except (jwt.PyJWTError, ValueError, AttributeError, TypeError) as error:
                logger.warning("%s holds no usable keys: %s", path, error)
        return self._keys
