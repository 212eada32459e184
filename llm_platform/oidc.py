"""Tokens of an OpenID Connect provider in place of API keys: who is meant, and what that user may do here."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import jwt

from llm_platform.errors import Forbidden, ServiceUnavailable, Unauthorized
from llm_platform.keys import RANKS, Caller
from llm_platform.settings import Settings
from llm_platform.specs.keys import USER, Scope

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures by a private key that only the provider has; never `none`, and never HMAC with a key that everybody can read."""
KEYS_SECONDS = 300.0
"""How long the provider's keys are kept."""
FETCH_SECONDS = 5.0
"""How long a request waits for them."""
PAUSE_SECONDS = 2.0
"""How long nobody asks again after the provider did not answer, so that those who wait do not take every thread."""
LEEWAY_SECONDS = 30.0
"""By how much the provider's clock may differ."""


class Oidc:
    """Checks tokens of one provider. Its keys are fetched when they are first needed, and again for one that is not known."""

    def __init__(self, issuer: str, audience: str, jwks_url: str, user_claim: str, scope_claim: str, scopes: Mapping[str, Scope]) -> None:
        self._issuer = issuer
        self._audience = audience
        self._user_claim = user_claim
        self._scope_claim = scope_claim
        self._scopes = scopes
        self._asking = threading.Lock()
        self._silent_until = 0.0
        self._keys = jwt.PyJWKClient(jwks_url, lifespan=KEYS_SECONDS, timeout=FETCH_SECONDS)

    def caller(self, token: str) -> Caller:
        """For whom a token speaks. Blocks while keys are fetched.

        Raises Unauthorized for a token that is not good, Forbidden for one that grants nothing here, ServiceUnavailable while the
        provider's keys cannot be had.
        """
        claims = self._claims(token)
        user = claims[self._user_claim]
        if not isinstance(user, str) or not re.fullmatch(USER, user):
            raise Unauthorized(f"The token's claim '{self._user_claim}' is not a user name of at most 64 letters, digits and _.@|:+-")
        scope = self._scope(claims)
        if scope is None:
            known = ", ".join(self._scopes)
            raise Forbidden(f"The token's claim '{self._scope_claim}' has none of {known}", needed=list(self._scopes))
        return Caller(user, scope)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            if header["alg"] not in ALGORITHMS or "kid" not in header:
                raise jwt.InvalidAlgorithmError
            key = self._key(header["kid"])
            return jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", self._user_claim]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("This token has expired; get a new one") from None
        except jwt.PyJWTError:
            message = "This token is not valid here: it is malformed, not signed by the identity provider, or meant for others"
            raise Unauthorized(message) from None

    def _key(self, kid: str) -> jwt.PyJWK:
        """The provider's key of that id. Raises PyJWTError if it has none."""
        with self._asking:
            if time.monotonic() < self._silent_until:
                raise _no_answer()
            try:
                self._keys.get_jwk_set()  # what fails here is the provider's fault, not the token's
            except (jwt.PyJWTError, ValueError):
                self._silent_until = time.monotonic() + PAUSE_SECONDS
                raise _no_answer() from None
            try:
                return self._keys.get_signing_key(kid)
            except (jwt.PyJWKClientConnectionError, ValueError):
                raise _no_answer() from None

    def _scope(self, claims: Mapping[str, Any]) -> Scope | None:
        """The greatest that the token's claim, a list or words with spaces between them, stands for."""
        given = claims.get(self._scope_claim, [])
        words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
        granted: list[Scope] = [self._scopes[word] for word in words if isinstance(word, str) and word in self._scopes]
        return sorted(granted, key=lambda scope: RANKS[scope])[-1] if granted else None


def _no_answer() -> ServiceUnavailable:
    return ServiceUnavailable("The identity provider does not give its keys now; try again in a moment")


def from_settings(settings: Settings) -> Oidc | None:
    """None where no provider is set."""
    if settings.oidc_issuer is None or settings.oidc_audience is None or settings.oidc_jwks_url is None:
        return None
    return Oidc(
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_jwks_url,
        settings.oidc_user_claim,
        settings.oidc_scope_claim,
        settings.oidc_scopes,
    )
