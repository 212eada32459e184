"""Figures for Prometheus."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.deps import ServicesDep, scraper

router = APIRouter(tags=["operation"], dependencies=[Depends(scraper)])

_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/metrics", response_class=PlainTextResponse, responses=_TEXT)
def metrics(services: ServicesDep) -> Response:
    """This process's figures, in Prometheus's text format. Needs an admin's key where authentication is on, unless a setting opens it."""
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)
