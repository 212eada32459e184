"""HTTP for the SDK: repeated attempts where they are safe, and answers turned into results or exceptions."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from llm_platform.client.calls import Call, Pages
from llm_platform.client.pages import Page
from llm_platform.errors import (
    Forbidden,
    NotFound,
    PayloadTooLarge,
    PlatformError,
    RateLimited,
    ServiceUnavailable,
    Unauthorized,
    from_body,
)

TOO_MANY = 429
FAILED = 500
"""This and every status above it are the platform's fault, or that of a proxy before it, and may pass."""
BY_STATUS: dict[int, type[PlatformError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: PayloadTooLarge,
    429: RateLimited,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: ServiceUnavailable,
}
"""For answers that a proxy wrote, which have no error body; any other is a PlatformError."""
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 8.0
LONGEST_RETRY_AFTER = 60.0
CONNECT_TIMEOUT = 5.0

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT", bound=BaseModel)


@dataclass(frozen=True)
class Connection:
    """Where the platform is, and how it is spoken to; the same for both transports."""

    base_url: str
    timeout: float
    max_retries: int
    api_key: str | None

    def options(self) -> dict[str, Any]:
        """What an httpx client is made with."""
        return {
            "timeout": httpx.Timeout(self.timeout, connect=min(self.timeout, CONNECT_TIMEOUT)),
            "follow_redirects": True,
            "headers": {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"},
            # A proxy that the environment names is for the world outside: it cannot reach a platform on this machine.
            "trust_env": httpx.URL(self.base_url).host not in ("localhost", "127.0.0.1", "::1"),
        }

    def request(self, call: Call[Any]) -> tuple[str, str]:
        return call.method, f"{self.base_url}{call.path}"


def connection(base_url: str, *, api_key: str | None, timeout: float, max_retries: int) -> Connection:
    """The connection for a client's arguments; a key that is not given is LLM_PLATFORM_API_KEY of the environment, if there is one."""
    return Connection(base_url.rstrip("/"), timeout, max_retries, api_key or os.environ.get("LLM_PLATFORM_API_KEY") or None)


class Retry:
    """Decides after each attempt at a call whether there is another one, and when."""

    def __init__(self, connection: Connection, call: Call[Any]) -> None:
        self._connection = connection
        self._repeat = call.method == "GET" if call.repeat is None else call.repeat
        self._accept = call.accept
        self._attempt = 0

    def after_error(self, error: httpx.TransportError) -> float:
        """Seconds to wait. Raises ServiceUnavailable if that was the last attempt."""
        # A connection that never came to be carried nothing: any call can be made again.
        if self._last or not (self._repeat or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
            raise unreachable(self._connection.base_url, error) from error
        return self._pause()

    def after(self, response: httpx.Response) -> float | None:
        """Seconds to wait; None if this response is the answer, good or bad."""
        # What was refused for being one too many did nothing: any call can be made again.
        passing = response.status_code == TOO_MANY or (self._repeat and response.status_code >= FAILED)
        if self._last or not passing or self.good(response):
            return None
        return max(self._pause(), retry_after(response))

    def good(self, response: httpx.Response) -> bool:
        return response.is_success or (response.status_code in self._accept and _is_answer(response))

    @property
    def _last(self) -> bool:
        return self._attempt >= self._connection.max_retries

    def _pause(self) -> float:
        self._attempt += 1
        return pause(self._attempt - 1)


class Transport:
    """One connection pool to one platform."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._http = httpx.Client(**connection.options())

    def run(self, call: Call[ResultT]) -> ResultT:
        """Makes the call; what its answer says. Raises PlatformError."""

        def send() -> httpx.Response:
            method, url = self.connection.request(call)
            return self._http.request(method, url, **call.options)

        return call.read(self._attempts(send, call))

    def page(self, pages: Pages[ItemT], offset: int) -> Page[ItemT]:
        """A list's page, which can turn to those behind it."""
        return replace(self.run(pages(offset)), turn=lambda following: self.run(pages(following)))

    @contextmanager
    def stream(self, call: Call[None]) -> Iterator[httpx.Response]:
        """A GET whose body is read by the caller, piece by piece. Only the opening is tried again."""
        response = self._attempts(lambda: self._open(call), call)
        try:
            yield response
        except httpx.TransportError as error:
            raise unreachable(self.connection.base_url, error) from error
        finally:
            response.close()

    def open_stream(self, call: Call[None]) -> httpx.Response:
        """One attempt at a streamed GET, for callers that decide themselves what to do about a lost connection."""
        return self._checked(self._open(call), Retry(self.connection, call))

    def close(self) -> None:
        self._http.close()

    def _open(self, call: Call[None]) -> httpx.Response:
        method, url = self.connection.request(call)
        return self._http.send(self._http.build_request(method, url, **call.options), stream=True)

    def _attempts(self, send: Callable[[], httpx.Response], call: Call[Any]) -> httpx.Response:
        retry = Retry(self.connection, call)
        while True:
            try:
                response = send()
            except httpx.TransportError as error:
                wait = retry.after_error(error)
            else:
                wait = retry.after(response)
                if wait is None:
                    return self._checked(response, retry)
                response.close()
            time.sleep(wait)

    def _checked(self, response: httpx.Response, retry: Retry) -> httpx.Response:
        if retry.good(response):
            return response
        try:
            response.read()
        finally:
            response.close()
        raise error_of(response)


def pause(attempt: int) -> float:
    """Seconds before the next attempt: doubling, and uneven so that many clients do not come back at once."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.75, 1.25)


def retry_after(response: httpx.Response) -> float:
    """What the platform asks for, in seconds; 0 if it does not say."""
    value = response.headers.get("retry-after", "")
    return min(float(value), LONGEST_RETRY_AFTER) if value.isascii() and value.isdigit() else 0.0


def unreachable(base_url: str, error: httpx.TransportError) -> ServiceUnavailable:
    reason = "did not answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
    return ServiceUnavailable(f"The platform at {base_url} {reason} ({str(error) or type(error).__name__}); is it running?")


def _is_answer(response: httpx.Response) -> bool:
    """Whether a status that an answer may have came with one, and not with an error or from a proxy."""
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and "error" not in body


def error_of(response: httpx.Response) -> PlatformError:
    """The exception for an error answer that was read, also for one that a proxy wrote and that has no error body."""
    found = _from_body(response) or BY_STATUS.get(response.status_code, PlatformError)(
        f"{response.request.method} {response.request.url} was answered with {response.status_code} {response.reason_phrase}"
    )
    found.request_id = response.headers.get("x-request-id")
    found.http_status = response.status_code
    return found


def _from_body(response: httpx.Response) -> PlatformError | None:
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    if not (isinstance(body, dict) and isinstance(body.get("error"), str) and isinstance(body.get("message"), str)):
        return None
    metadata = body.get("metadata")
    return from_body({**body, "metadata": metadata if isinstance(metadata, dict) else {}}, response.status_code)
