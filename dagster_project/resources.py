"""The platform's services as a Dagster resource."""

from __future__ import annotations

from functools import lru_cache

import dagster as dg

from llm_platform.agents import Platform
from llm_platform.settings import Settings
from llm_platform.storage import Storage, storage_from


def storage_for(settings: Settings) -> Storage:
    """S3 through dagster-aws where one is configured, else the local folder."""
    if settings.s3_endpoint is None:
        return storage_from(settings)
    from dagster_aws.s3 import S3Resource  # half a second, which the embedded default need not pay

    resource = S3Resource(
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
    )
    return storage_from(settings, client=resource.get_client())


@lru_cache(maxsize=1)
def platform() -> Platform:
    """One per process, made from the environment when first needed."""
    settings = Settings()
    return Platform.from_settings(settings, storage_for(settings))


class PlatformResource(dg.ConfigurableResource):
    """Database, object store and registry, as `LLM_PLATFORM_*` settings say. Secrets stay in the environment."""

    def get(self) -> Platform:
        return platform()
