"""The API's assembly: `uvicorn --factory api.main:create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api import errors, openapi
from api.guard import Guard
from api.middleware import RequestMiddleware
from api.orchestration import Orchestrator
from api.routes import datasets, health, jobs, keys, logs, models, preflight
from api.services import Services
from llm_platform.settings import Settings

BASE = "/api/v1"


def create_app(settings: Settings | None = None, orchestrator: Orchestrator | None = None) -> FastAPI:
    """The application. Settings come from the environment if not given, the orchestrator is Dagster."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = app.state.services = Services(settings, orchestrator)
        try:
            yield
        finally:
            services.streams.close()
            await services.limits.close()
            await run_in_threadpool(services.close)

    app = FastAPI(title="LLM platform", version=version("llm-platform"), lifespan=lifespan, redirect_slashes=False)
    api = APIRouter(prefix=BASE, responses=errors.RESPONSES)
    for resource in (jobs, preflight, datasets, models, logs, keys, health):
        api.include_router(resource.router)
    app.include_router(api)
    app.include_router(health.router)
    app.add_middleware(Guard)
    app.add_middleware(RequestMiddleware)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=settings.trusted_proxies)
    errors.install(app)
    openapi.install(app)
    return app
