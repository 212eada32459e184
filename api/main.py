"""The API's assembly: `uvicorn --factory api.main:create_app`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import BASE, errors, openapi
from api.guard import Guard, without_key
from api.middleware import Cors, LastResort, RequestMiddleware, access, refusals
from api.orchestration import Orchestrator
from api.routes import audit, datasets, health, jobs, keys, logs, metrics, models, notebooks, preflight, usage, ws
from api.services import Services
from llm_platform import json_log
from llm_platform.settings import Settings

_UNCOMPRESSED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/x-tar")
"""Downloads have entity tags and ranges, which are of the bytes as they are stored."""


def create_app(settings: Settings | None = None, orchestrator: Orchestrator | None = None) -> FastAPI:
    """The application. Settings come from the environment if not given, the orchestrator is Dagster."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, object]]:
        json_log.install("api", "llm_platform")
        if settings.access_log != "off":
            access.setLevel(logging.INFO)
        services = app.state.services = Services(settings, orchestrator)
        try:
            # For `llm_platform.supervisor`: `serve` asks for the first two, `http` for the last.
            yield {"drain": services.drain, "ready": services.ready, "refused": refusals(services)}
        finally:
            services.streams.close()
            services.rooms.close()
            await services.limits.close()
            await run_in_threadpool(services.close)

    app = FastAPI(title="LLM platform", version=version("llm-platform"), lifespan=lifespan, redirect_slashes=False)
    api = APIRouter(prefix=BASE, responses=errors.RESPONSES)
    for resource in (jobs, preflight, datasets, models, notebooks, logs, keys, audit, usage, health):
        api.include_router(resource.router)
    api.include_router(ws.router)
    app.include_router(api)
    app.include_router(health.router)
    app.include_router(metrics.router, responses=errors.RESPONSES)
    # The last one added is the first that a request meets.
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=4, exclude_content_types=_UNCOMPRESSED)
    app.add_middleware(Guard)
    app.add_middleware(LastResort)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(RequestMiddleware, access_log=settings.access_log)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.trusted_proxies)
    errors.install(app)
    openapi.install(app, authentication=settings.authentication, without_key=without_key(settings))
    return app
