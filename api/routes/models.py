"""Models: list, compare, describe, download."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import PlainTextResponse, Response

from api.card import card_response
from api.deps import BaseModelFilter, CallerDep, ComparedModels, PageDep, ServicesDep, TrainedModel
from api.download import archive_response
from api.reads import Refresh
from llm_platform import model_list, models
from llm_platform.comparisons import compare_models
from llm_platform.specs.comparison import Comparison
from llm_platform.specs.resources import Model, ModelFiles, ModelList

router = APIRouter(prefix="/models", tags=["models"])

_TAR: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}},
    206: {"description": "A part."},
    304: {"description": "The client has it already, by its `If-None-Match`."},
}
_CARD: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string"}} for kind in ("text/markdown", "text/html")}}
}

ExportedAs = Annotated[models.DownloadFormat, Query(description="Which export, by its format.")]
Preferred = Annotated[str, Header(description="`text/html` for a page; else the card is Markdown.")]


async def model_query(
    base_model: BaseModelFilter = None,
    name: Annotated[str | None, Query(max_length=255, description="Only versions of the registered model of this name.")] = None,
    alias: Annotated[str | None, Query(max_length=255, description="Only models with this alias in MLflow, such as champion.")] = None,
    min_metric: Annotated[
        list[str],
        Query(max_length=20, description="METRIC:NUMBER: only models whose metric is at least that, for example exact_match:0.8."),
    ] = [],  # noqa: B006
    max_metric: Annotated[
        list[str], Query(max_length=20, description="METRIC:NUMBER: only models whose metric is at most that, for example loss:1.5.")
    ] = [],  # noqa: B006
    sort: Annotated[
        str, Query(max_length=200, description="created_at, name or a metric; with '-' before it from high to low, or newest first.")
    ] = "-created_at",
) -> model_list.ModelQuery:
    """Raises InvalidInput."""
    return model_list.parse_query(base_model=base_model, name=name, alias=alias, min_metric=min_metric, max_metric=max_metric, sort=sort)


@router.get("", response_model=ModelList)
async def list_models(
    request: Request, services: ServicesDep, caller: CallerDep, page: PageDep, query: Annotated[model_list.ModelQuery, Depends(model_query)]
) -> Response:
    """Trained models, newest first if nothing else is asked for."""
    services.sync_models()

    def read(_: Refresh) -> ModelList:
        rows, total = model_list.list_models(query, services.database, page.limit, page.offset, caller.sees)
        return ModelList(models=[models.summary(row) for row in rows], **page.bounds(total))

    return await services.reads.answered(request, read)


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
    format: ExportedAs = "adapter",
    range: Annotated[str | None, Header(description="Which bytes of the archive: bytes=FIRST-LAST, of which one may be left out.")] = None,
    if_range: Annotated[str | None, Header(description="An `ETag`: of an archive that has another, all is sent.")] = None,
    if_none_match: Annotated[
        str | None, Header(description="An `ETag`, or several with commas between them: an archive that has one is not sent (304).")
    ] = None,
) -> Response:
    """An export as a tar archive; a part of it, to resume a download, by a `Range` header."""
    archive = models.archive(model, format, services.storage)
    return archive_response(archive, services.storage, range=range, if_range=if_range, if_none_match=if_none_match)


@router.get("/{model_id}/files")
def files(model: TrainedModel, services: ServicesDep, response: Response, format: ExportedAs = "adapter") -> ModelFiles:
    """The files of an export, each with its digest and, where the object store is an S3, a presigned address that is good for an hour."""
    response.headers["Cache-Control"] = "no-store"  # whoever has an address can read the file
    return models.files(model, format, services.storage)


@router.get("/{model_id}/card", response_class=PlainTextResponse, responses=_CARD)
def model_card(model: TrainedModel, services: ServicesDep, accept: Preferred = "*/*") -> Response:
    """The model card, in Markdown or, for who prefers `text/html`, as a page."""
    return card_response(model, services.registry, accept)
