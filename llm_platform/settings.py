"""One typed place for everything an operator can set, read from the environment (prefix `LLM_PLATFORM_`)."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "llm-platform"


AccessLog = Literal["off", "errors", "all"]
ORIGIN = r"^(\*|https?://[A-Za-z0-9._-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?)$"
"""What a browser sends as Origin: no path, no slash at the end."""


class Settings(BaseSettings):
    """What the platform needs to know about where it runs. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="LLM_PLATFORM_", extra="ignore", frozen=True)

    home: Path = Field(default=Path(".home"), description="Folder of the databases, the local object store and the work in progress.")
    cache: Path = Field(default_factory=_default_cache, description="Per-machine folder of base models that the library built.")
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the platform's tables; SQLite in the home folder if unset."
    )
    mlflow_url: str | None = Field(
        default=None, description="MLflow tracking server; SQLite in the home folder, without a server, if unset."
    )
    workspace: Path | None = Field(default=None, description="Dagster workspace file; workspace.yaml of the project if unset.")
    redis_url: str | None = Field(
        default=None, repr=False, description="Where several API processes count requests together; each its own if unset."
    )
    s3_endpoint: str | None = Field(default=None, description="Endpoint of a real S3; a folder below home if unset.")
    s3_access_key: str | None = Field(default=None, repr=False)
    s3_secret_key: str | None = Field(default=None, repr=False)
    s3_region: str = "us-east-1"
    datasets_bucket: str = "datasets"
    artifacts_bucket: str = "artifacts"
    extra_buckets: list[str] = Field(default=[], description="More buckets that a DatasetAgent may read.")
    model_roots: list[Path] = Field(default=[], description="Folders from which base models may be loaded by path.")
    notebook_roots: list[Path] = Field(default=[], description="More folders whose notebooks a NotebookAgent may run.")
    max_upload_bytes: int = 5 * 2**30
    max_body_bytes: int = 2 * 2**20
    max_streams_per_client: int = 500
    max_uploads_per_client: int = Field(
        default=8, ge=1, description="Uploads of one client at a time: of a user, or else of an IP address."
    )
    authentication: bool = Field(default=False, description="Whether requests need an API key; the API leaves loopback only with it.")
    oidc_issuer: str | None = Field(default=None, description="OpenID Connect provider whose tokens are taken in place of API keys: `iss`.")
    oidc_audience: str | None = Field(default=None, description="What its tokens must be meant for: `aud`.")
    oidc_jwks_url: str | None = Field(default=None, pattern=r"^https?://", description="Where its public keys are.")
    oidc_user_claim: str = Field(default="sub", description="Claim with the user's name.")
    oidc_scope_claim: str = Field(
        default="scope", description="Claim with what the user may do: a list, or words with spaces between them."
    )
    oidc_scopes: dict[str, Literal["read", "write", "admin"]] = Field(
        default={f"llm-platform:{scope}": scope for scope in ("read", "write", "admin")}, description="What those words stand for here."
    )
    rate_limit_default: int = Field(default=100, ge=1, description="Requests a minute of one IP address.")
    rate_limit_authenticated: int = Field(default=1000, ge=1, description="Requests a minute of one user, with any of the user's API keys.")
    access_log: AccessLog = Field(
        default="all", description="Which requests get a line in the API's log: all, errors (from status 400), or off."
    )
    cors_origins: list[Annotated[str, Field(pattern=ORIGIN)]] = Field(
        default=[], description='Origins whose pages may use the API, such as https://app.example.test, or "*" for all.'
    )
    metrics_open: bool = Field(default=False, description="Whether /metrics needs no key where authentication is on.")
    trusted_proxies: list[str] = Field(default=[], description="Addresses or networks of proxies whose X-Forwarded-For is believed.")
    data_engine: Literal["local", "ray"] = Field(default="local", description="Where preprocessing runs: this machine, or a Ray cluster.")
    ray_address: str | None = Field(
        default=None, description="HOST:PORT of the Ray cluster that this machine is a node of; one of this machine is started if unset."
    )
    nodes_per_gpu: int = Field(default=1, ge=1, le=64, description="How many training or evaluation nodes may share a GPU at a time.")
    min_free_bytes: int = Field(
        default=0, ge=0, description="Free bytes of the home folder's disk under which uploads and new jobs are refused; 0 for never."
    )
    max_dataset_bytes_per_owner: int = Field(default=0, ge=0, description="Bytes of uploaded files that a user may have; 0 for any number.")
    max_jobs_per_owner: int = Field(default=0, ge=0, description="Jobs of a user that may wait or run at a time; 0 for any number.")
    max_runtime: int = Field(default=0, ge=0, description="Seconds that a job may run at most; 0 for any time.")
    threads: int = Field(default=0, description="Threads of a training process; 0 leaves the choice to PyTorch.")

    @model_validator(mode="after")
    def _whole_provider(self) -> Self:
        given = [self.oidc_issuer, self.oidc_audience, self.oidc_jwks_url]
        if any(given) and not all(given):
            raise ValueError("oidc_issuer, oidc_audience and oidc_jwks_url go together")
        return self

    @cached_property
    def root(self) -> Path:
        """The home folder, absolute, made on first use."""
        path = self.home.expanduser().resolve()
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def work(self) -> Path:
        """Where running nodes keep what is not yet an artifact (checkpoints, temporary files)."""
        path = self.root / "work"
        path.mkdir(exist_ok=True)
        return path

    @property
    def dagster_home(self) -> Path:
        """Folder of Dagster's instance (`DAGSTER_HOME`)."""
        path = self.root / "dagster"
        path.mkdir(exist_ok=True)
        return path

    @property
    def dagster_lock(self) -> Path:
        """Held while Dagster's instance is opened, which makes its tables the first time."""
        return self.dagster_home / ".opening.lock"

    @property
    def services_file(self) -> Path:
        """Where the supervisor writes which process runs which service (see `llm_platform.supervisor`)."""
        return self.root / "services.json"

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.root / 'platform.db'}"

    @property
    def resolved_mlflow_url(self) -> str:
        return self.mlflow_url or f"sqlite:///{self.root / 'mlflow.db'}"
