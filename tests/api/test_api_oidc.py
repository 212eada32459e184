"""Tokens of an OpenID Connect provider over real HTTP: a real key server, real signatures, and every way in which a token can be wrong."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import HMACAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from llm_platform import keys, oidc
from llm_platform.errors import ServiceUnavailable, Unauthorized
from llm_platform.keys import Caller
from llm_platform.settings import Settings
from llm_platform.specs.keys import KeyRequest
from tests.api.api_harness import Api, Start, body, wait_until

ISSUER = "https://login.example.test/"
AUDIENCE = "llm-platform"


@dataclass
class Provider:
    """An identity provider: a key server and the private keys."""

    url: str
    private: dict[str, rsa.RSAPrivateKey]
    published: list[str]
    asked: list[str] = field(default_factory=list)
    answer: bytes | None = None

    def token(
        self, kid: str = "one", algorithm: str = "RS256", key: Any = None, headers: dict[str, Any] | None = None, **changes: Any
    ) -> str:
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 300, "scope": "openid llm-platform:write"} | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key or self.private[kid], algorithm, headers={"kid": kid} if headers is None else headers)

    def document(self) -> bytes:
        return json.dumps({"keys": [{**jwk(self.private[kid]), "kid": kid, "use": "sig"} for kid in self.published]}).encode()


def jwk(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "alg": "RS256"}


@pytest.fixture(scope="module")
def private() -> dict[str, rsa.RSAPrivateKey]:
    return {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("one", "two", "strange")}


@pytest.fixture
def provider(private: dict[str, rsa.RSAPrivateKey]) -> Iterator[Provider]:
    made = Provider("", private, ["one"])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(made.answer or made.document())

        def log_message(self, format: str, *args: Any) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def settings(provider: Provider, **more: Any) -> dict[str, Any]:
    given = {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_jwks_url": provider.url}
    return {"authentication": True, **given, **more}


def ask(api: Api, token: str, method: str = "GET", path: str = "/jobs", **more: Any) -> httpx.Response:
    return api.client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **more)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    found = answer.json()
    assert (answer.status_code, found["error"]) == (status, code) and set(found) == {"error", "message", "metadata"}, answer.text
    return found


def unsigned(claims: dict[str, Any]) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT", "kid": "one"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


def confused(provider: Provider) -> str:
    """Signed by HMAC, with the public key, which everybody has, as the secret."""
    public = provider.private["one"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    secret = HMACAlgorithm(HMACAlgorithm.SHA256)
    parts = [
        {"alg": "HS256", "typ": "JWT", "kid": "one"},
        {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 300, "scope": "llm-platform:admin"},
    ]
    text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return f"{text}.{base64.urlsafe_b64encode(secret.sign(text.encode(), pem)).rstrip(b'=').decode()}"


def test_a_good_token_is_a_user_with_a_scope(start: Start, provider: Provider) -> None:
    with start(**settings(provider)) as api:
        ada, key = provider.token(), keys.create(KeyRequest(owner="ada"), api.services.database).key
        api.put()
        assert ask(api, ada, "POST", json=body("tokens")).status_code == 200
        assert ask(api, key, path="/jobs/job_tokens").status_code == 200, "one user, by key or token"
        refused(ask(api, provider.token(sub="bob"), path="/jobs/job_tokens"), 404, "NOT_FOUND")
        reader = provider.token(scope="llm-platform:read")
        assert ask(api, reader).status_code == 200
        assert refused(ask(api, reader, "POST", json=body()), 403, "FORBIDDEN")["metadata"]["scope"] == "read"
        admin = provider.token(sub="root", scope="llm-platform:read llm-platform:admin")
        assert ask(api, admin, path="/keys").status_code == 200
        assert [entry["actor"] for entry in ask(api, admin, path="/audit").json()["items"]] == ["ada", "ada"]
        assert provider.asked == ["/keys"], "the provider's keys are kept"
        assert ask(api, ada).headers["x-ratelimit-limit"] == "1000000"


BAD: dict[str, Callable[[Provider], str]] = {
    "expired": lambda provider: provider.token(exp=time.time() - 60),
    "without an end": lambda provider: provider.token(exp=None),
    "not yet valid": lambda provider: provider.token(nbf=time.time() + 600),
    "for another audience": lambda provider: provider.token(aud="someone-else"),
    "for nobody": lambda provider: provider.token(aud=None),
    "of another issuer": lambda provider: provider.token(iss="https://evil.example.test/"),
    "without a user": lambda provider: provider.token(sub=None),
    "with a user that is too long": lambda provider: provider.token(sub="a" * 65),
    "with an empty user": lambda provider: provider.token(sub=""),
    "signed by an unknown key": lambda provider: provider.token("strange"),
    "signed by another key than it says": lambda provider: provider.token("one", key=provider.private["strange"]),
    "without a key id": lambda provider: provider.token(headers={}),
    "garbled": lambda provider: unsigned({}).replace(".", "x."),
    "unsigned": lambda _: unsigned({"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": time.time() + 300, "scope": "llm-platform:admin"}),
    "signed by the public key": confused,
    "changed": lambda provider: ".".join(
        [provider.token().split(".")[0], provider.token(sub="root").split(".")[1], provider.token().split(".")[2]]
    ),
    "cut": lambda provider: provider.token().rsplit(".", 1)[0],
    "no token": lambda _: "not.a.token",
    "an unknown API key": lambda _: "llmp_123_x.y.z",
}


def test_bad_tokens(start: Start, provider: Provider) -> None:
    with start(**settings(provider)) as api:
        assert ask(api, provider.token()).status_code == 200
        for name, make in BAD.items():
            answer = ask(api, make(provider))
            assert answer.status_code == 401, f"{name}: {answer.text}"
            assert "traceback" not in refused(answer, 401, "UNAUTHORIZED")["message"].lower()
            assert answer.headers["www-authenticate"] == "Bearer"
        assert "expired" in ask(api, BAD["expired"](provider)).json()["message"]
        assert len(provider.asked) == 1, "made-up key ids do not make the platform ask again and again"


def test_a_token_that_grants_nothing(start: Start, provider: Provider) -> None:
    with start(**settings(provider)) as api:
        for scope in (None, "", "openid", 7, {"llm-platform:admin": True}):
            refused(ask(api, provider.token(scope=scope)), 403, "FORBIDDEN")


def test_claims_of_ones_own(start: Start, provider: Provider) -> None:
    more = {"oidc_user_claim": "email", "oidc_scope_claim": "groups", "oidc_scopes": {"ml-admins": "admin", "ml": "read"}}
    with start(**settings(provider, **more)) as api:
        token = provider.token(email="ada@example.test", groups=["staff", "ml", "ml-admins"], scope=None)
        assert ask(api, token, path="/keys").status_code == 200
        assert ask(api, provider.token(email="bob@example.test", groups=["ml"]), path="/keys").status_code == 403
        refused(ask(api, provider.token(groups=["ml-admins"])), 401, "UNAUTHORIZED")


def test_a_provider_that_does_not_answer(start: Start, provider: Provider) -> None:
    with start(**settings(provider)) as api:
        provider.answer = b"<html>"
        refused(ask(api, provider.token()), 503, "SERVICE_UNAVAILABLE")
        key = keys.create(KeyRequest(owner="ada"), api.services.database).key
        assert ask(api, key).status_code == 200, "API keys do not depend on it"
        provider.answer = None
        wait_until(lambda: ask(api, provider.token()).status_code == 200)
    provider.url = "http://127.0.0.1:9/keys"
    with start(**settings(provider)) as api:
        refused(ask(api, provider.token()), 503, "SERVICE_UNAVAILABLE")


@pytest.mark.parametrize("broken", [b"", b"<html>", b"[]", b'{"keys": []}', b'{"keys": 7}', b'{"keys": [{"kty": "none"}]}', b"\xff\xfe"])
def test_a_provider_that_answers_nonsense(provider: Provider, broken: bytes) -> None:
    provider.answer = broken or b" "
    found = oidc.from_settings(Settings(**settings(provider)))
    assert found is not None
    with pytest.raises(ServiceUnavailable):
        found.caller(provider.token())


def test_new_keys_are_found(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    found = oidc.from_settings(Settings(**settings(provider)))
    assert found is not None and found.caller(provider.token("one")) == Caller("ada", "write")
    provider.published = ["two"]
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 60)  # the platform asks again for a key that it does not know
    assert found.caller(provider.token("two")) == Caller("ada", "write")
    with pytest.raises(Unauthorized):
        found.caller(provider.token("one"))
    assert len(provider.asked) == 2


def test_without_the_setting_tokens_are_unknown_keys(start: Start, provider: Provider) -> None:
    with start(authentication=True) as api:
        refused(ask(api, provider.token()), 401, "UNAUTHORIZED")
    assert provider.asked == []


@pytest.mark.parametrize(
    "given", [{"oidc_issuer": ISSUER}, {"oidc_jwks_url": "file:///etc/passwd", "oidc_issuer": "x", "oidc_audience": "y"}]
)
def test_settings_that_go_together(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="oidc_"):
        Settings.model_validate(given)
