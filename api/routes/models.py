"""Models: list, describe, download."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import PlainTextResponse, Response

from api.deps import BaseModelFilter, CallerDep, ComparedModels, PageDep, ServicesDep, TrainedModel
from api.download import archive_response
from llm_platform import models
from llm_platform.comparisons import compare_models
from llm_platform.registry.card import card
from llm_platform.specs.comparison import Comparison
from llm_platform.specs.resources import Model, ModelList

router = APIRouter(prefix="/models", tags=["models"])

_TAR: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "A part."},
}
_MARKDOWN: dict[int | str, dict[str, Any]] = {200: {"content": {"text/markdown": {"schema": {"type": "string"}}}}}


@router.get("")
def list_models(services: ServicesDep, caller: CallerDep, page: PageDep, base_model: BaseModelFilter = None) -> ModelList:
    """Trained models, newest first."""
    rows, total = services.database.list_models(page.limit, page.offset, base_model, owner=caller.sees)
    return ModelList(models=[models.summary(row) for row in rows], **page.bounds(total))


@router.get("/compare")
def compare(wanted: ComparedModels, services: ServicesDep) -> Comparison:
    """Two or more models on the examples that all of them were evaluated on."""
    return compare_models(wanted, services.storage, services.settings.work / "inputs")


@router.get("/{model_id}")
def get(model: TrainedModel) -> Model:
    """A model's origin, configuration, figures and exports."""
    return models.details(model)


@router.get("/{model_id}/download", response_class=Response, responses=_TAR)
def download(
    model: TrainedModel,
    services: ServicesDep,
    format: models.DownloadFormat = "adapter",
    range: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """An export as a tar archive; a part of it, to resume a download, by a `Range` header."""
    archive = models.archive(model, format, services.storage)
    return archive_response(archive, services.storage, range=range, if_range=if_range, if_none_match=if_none_match)


@router.get("/{model_id}/card", response_class=PlainTextResponse, responses=_MARKDOWN)
def model_card(model: TrainedModel) -> Response:
    """The model card, in Markdown."""
    return Response(card(model), media_type="text/markdown; charset=utf-8")
