"""How many requests a client may make in a minute, counted in this process, or in Redis for several of them."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.aio.strategies import FixedWindowRateLimiter

from llm_platform.settings import Settings

REDIS_SECONDS = 1.0
"""How long a request waits for Redis."""
REDIS_PAUSE = 10.0
"""Seconds without another attempt after Redis did not answer."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Allowance:
    """What a client may still do; `reset` is in seconds since the epoch, when the whole limit is there again."""

    allowed: bool
    limit: int
    remaining: int
    reset: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The specification's, for every answer."""
        values = {"limit": self.limit, "remaining": self.remaining, "reset": self.reset}
        return [(f"x-ratelimit-{name}".encode(), str(value).encode()) for name, value in values.items()]

    @property
    def retry_after(self) -> int:
        """Seconds until `reset`."""
        return max(1, math.ceil(self.reset - time.time()))


_How = Callable[..., Awaitable[Allowance]]
"""Asks a limiter about a limit and a client."""


class RateLimits:
    """Windows of a minute, each begun by its first request. While Redis is away, this process counts alone."""

    def __init__(self, settings: Settings) -> None:
        self._address = RateLimitItemPerMinute(settings.rate_limit_default, namespace="llm_platform")
        self._user = RateLimitItemPerMinute(settings.rate_limit_authenticated, namespace="llm_platform")
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._redis = _redis(settings.redis_url) if settings.redis_url else None
        self._shared = FixedWindowRateLimiter(self._redis) if self._redis else None
        self._redis_again = 0.0

    async def address(self, host: str) -> Allowance:
        """Counts a request that nobody answers for by name."""
        return await self._ask(_count, self._address, "address", network(host))

    async def standing(self, host: str) -> Allowance:
        """Where an address stands; counts nothing."""
        return await self._ask(_look, self._address, "address", network(host))

    async def user(self, owner: str) -> Allowance:
        """Counts a request of a known user."""
        return await self._ask(_count, self._user, "user", owner)

    async def close(self) -> None:
        if self._redis is not None and isinstance(self._redis.bridge, RedispyBridge):
            await self._redis.bridge.storage.aclose()

    async def _ask(self, how: _How, limit: RateLimitItem, *client: str) -> Allowance:
        if self._shared is not None and time.monotonic() >= self._redis_again:
            try:
                return await how(self._shared, limit, *client)
            except Exception as error:  # whatever its client library raises; limits must not close the API
                self._redis_again = time.monotonic() + REDIS_PAUSE
                log.warning("Redis does not answer (%s); this process counts requests alone for %g s", type(error).__name__, REDIS_PAUSE)
        return await how(self._own, limit, *client)


async def _count(limiter: FixedWindowRateLimiter, limit: RateLimitItem, *client: str) -> Allowance:
    allowed = await limiter.hit(limit, *client)
    return replace(await _look(limiter, limit, *client), allowed=allowed)


async def _look(limiter: FixedWindowRateLimiter, limit: RateLimitItem, *client: str) -> Allowance:
    window = await limiter.get_window_stats(limit, *client)
    return Allowance(window.remaining > 0, limit.amount, window.remaining, math.ceil(window.reset_time))


def _redis(url: str) -> RedisStorage:
    return RedisStorage(
        f"async+{url}",
        implementation="redispy",
        key_prefix="llm_platform",
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
    )


def network(host: str) -> str:
    """Whom an address stands for: an IPv6 client has a whole /64 of them to choose from."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def holder(owner: str | None, host: str | None) -> str:
    """Whom an upload or a stream counts for as long as it goes on: the user, or else the address."""
    return owner or network(host or "unknown")
