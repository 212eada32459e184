"""HTTP for the SDK: repeated attempts where they are safe, and answers turned into results or exceptions."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from llm_platform.errors import Forbidden, NotFound, PlatformError, RateLimited, ServiceUnavailable, Unauthorized, from_body

BUSY = (429, 502, 503, 504)
"""Answers of a platform, or of a proxy before it, that will be there again in a while."""
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 8.0
LONGEST_RETRY_AFTER = 60.0
CONNECT_TIMEOUT = 5.0

ResultT = TypeVar("ResultT", bound=BaseModel)


class Transport:
    """One connection pool to one platform."""

    def __init__(self, base_url: str, *, timeout: float, max_retries: int, api_key: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.max_retries = max_retries
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            follow_redirects=True,
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            # A proxy that the environment names is for the world outside: it cannot reach a platform on this machine.
            trust_env=httpx.URL(self.base_url).host not in ("localhost", "127.0.0.1", "::1"),
        )

    def request(
        self, method: str, path: str, *, repeat: bool | None = None, accept: tuple[int, ...] = (), **options: Any
    ) -> httpx.Response:
        """One answer, read whole. `repeat` says whether the call may reach the platform twice (by default a GET may)."""

        def send() -> httpx.Response:
            return self._http.request(method, self.url(path), **options)

        return self._attempts(send, method == "GET" if repeat is None else repeat, accept)

    @contextmanager
    def stream(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A GET whose body is read by the caller, piece by piece. Only the opening is tried again."""

        def send() -> httpx.Response:
            return self._http.send(self._http.build_request("GET", self.url(path), **options), stream=True)

        response = self._attempts(send, True)
        try:
            yield response
        except httpx.TransportError as error:
            raise unreachable(self.base_url, error) from error
        finally:
            response.close()

    def open_stream(self, path: str, **options: Any) -> httpx.Response:
        """One attempt at a streamed GET, for callers that decide themselves what to do about a lost connection."""
        response = self._http.send(self._http.build_request("GET", self.url(path), **options), stream=True)
        try:
            return checked(response)
        except BaseException:
            response.close()
            raise

    def _attempts(self, send: Callable[[], httpx.Response], repeat: bool, accept: tuple[int, ...] = ()) -> httpx.Response:
        attempt = 0
        while True:
            last = attempt >= self.max_retries
            try:
                response = send()
            except httpx.TransportError as error:
                # A connection that never came to be carried nothing: any call can be made again.
                if last or not (repeat or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                    raise unreachable(self.base_url, error) from error
                wait = pause(attempt)
            else:
                if response.status_code in accept:
                    return response
                # What was refused for being one too many did nothing: any call can be made again.
                if response.status_code not in BUSY or last or not (repeat or response.status_code == 429):
                    try:
                        return checked(response)
                    except BaseException:
                        response.close()
                        raise
                wait = max(pause(attempt), retry_after(response))
                response.close()
            time.sleep(wait)
            attempt += 1

    def url(self, path: str) -> str:
        return f"{self.base_url}{path}"

    def close(self) -> None:
        self._http.close()


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


def checked(response: httpx.Response) -> httpx.Response:
    """The response if it is a success. Raises what its error body says otherwise."""
    if response.is_success:
        return response
    raise error_of(response)


def error_of(response: httpx.Response) -> PlatformError:
    """The exception for an error answer, also for one that a proxy wrote and that has no error body."""
    response.read()
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("error"), str) and isinstance(body.get("metadata", {}), dict):
        return from_body(body)
    by_status = {401: Unauthorized, 403: Forbidden, 404: NotFound, 429: RateLimited}
    kind = by_status.get(response.status_code) or (ServiceUnavailable if response.status_code in BUSY else PlatformError)
    return kind(f"{response.request.method} {response.request.url} was answered with {response.status_code} {response.reason_phrase}")


def parse(model: type[ResultT], response: httpx.Response) -> ResultT:
    """The typed result in a response. Fields that a newer platform adds are passed over."""
    return model.model_validate_json(response.content, extra="ignore")
