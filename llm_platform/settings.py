"""One typed place for everything an operator can set, read from the environment (prefix `LLM_PLATFORM_`)."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

from llm_platform.errors import InvalidConfig, ServiceUnavailable


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "llm-platform"


SECRETS_DIR = "LLM_PLATFORM_SECRETS_DIR"
AccessLog = Literal["off", "errors", "all"]
ORIGIN = r"^(\*|https?://[A-Za-z0-9._-]+(:\d+)?|https?://\[[0-9a-fA-F:]+\](:\d+)?)$"
"""What a browser sends as Origin: no path, no slash at the end."""


def with_driver(url: str) -> str:
    """The URL with its driver: SQLAlchemy 2.1 reads a bare postgresql:// as psycopg 3, which is not what dagster-postgres installs."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


NotebookBucket = Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")]


def _no_address(path: Path) -> Path:
    if str(path).startswith("s3:"):
        raise ValueError("write an address as s3://bucket or s3://bucket/folder, without a slash at the end")
    return path


NotebookFolder = Annotated[Path, AfterValidator(_no_address)]


class Settings(BaseSettings):
    """What the platform needs to know about where it runs. Sizes are in bytes, times in seconds.

    From the environment, as LLM_PLATFORM_ and the name in capitals, or from files of that name in the folder LLM_PLATFORM_SECRETS_DIR
    (capitals or not), which is how Docker and Kubernetes hand secrets over; the environment wins.
    """

    model_config = SettingsConfigDict(env_prefix="LLM_PLATFORM_", extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = os.environ.get(SECRETS_DIR)
        if folder and not Path(folder).is_dir():
            raise InvalidConfig(f"{SECRETS_DIR} names no folder", field=SECRETS_DIR)
        files = (SecretsSettingsSource(settings_cls, secrets_dir=folder),) if folder else ()
        return init_settings, env_settings, *files

    home: Path = Field(default=Path(".home"), description="Folder of the databases, the local object store and the work in progress.")
    cache: Path = Field(default_factory=_default_cache, description="Per-machine folder of base models that the library built.")
    database_url: str | None = Field(
        default=None, repr=False, description="SQLAlchemy URL of the platform's tables; SQLite in the home folder if unset."
    )
    dagster_database_url: str | None = Field(
        default=None, repr=False, description="URL of a Postgres database of Dagster's own; SQLite in the home folder if unset."
    )
    mlflow_url: str | None = Field(
        default=None, description="MLflow tracking server; SQLite in the home folder, without a server, if unset."
    )
    mlflow_database_url: str | None = Field(
        default=None,
        repr=False,
        description="SQLAlchemy URL of the MLflow server that `llm-platform up` starts; SQLite in the home folder if unset.",
    )
    mlflow_artifacts: str | None = Field(
        default=None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/.*)?$",
        description="Where that server keeps artifacts, for example s3://mlflow; a folder below home if unset.",
    )
    workspace: Path | None = Field(default=None, description="Dagster workspace file; workspace.yaml of the project if unset.")
    redis_url: str | None = Field(
        default=None, repr=False, description="Where several API processes count requests together; each its own if unset."
    )
    s3_endpoint: str | None = Field(default=None, description="Endpoint of a real S3; a folder below home if unset.")
    s3_access_key: str | None = Field(default=None, repr=False, description="Its access key; where boto3 always looks, if unset.")
    s3_secret_key: str | None = Field(default=None, repr=False, description="And the secret key to it.")
    s3_region: str = Field(default="us-east-1", description="Region of the S3.")
    datasets_bucket: str = Field(default="datasets", description="Bucket of uploads, and of what pipelines read by address.")
    artifacts_bucket: str = Field(default="artifacts", description="Bucket of what jobs make.")
    compute_logs_bucket: str | None = Field(
        default=None, description="S3 bucket of what steps print (dagster-aws); a folder below home if unset."
    )
    extra_buckets: list[str] = Field(default=[], description="More buckets that a DatasetAgent may read.")
    model_roots: list[Path] = Field(default=[], description="Folders from which base models may be loaded by path.")
    benchmark_tasks: Path | None = Field(
        default=None, description="Folder of standard benchmarks of the operator's own: task definitions of lm-eval, which can run code."
    )
    notebook_roots: list[NotebookBucket | NotebookFolder] = Field(
        default=[], description="More folders, or buckets such as s3://notebooks/team, whose notebooks a NotebookAgent may run."
    )
    max_upload_bytes: int = Field(default=5 * 2**30, description="Largest file that may be uploaded.")
    max_body_bytes: int = Field(default=2 * 2**20, description="Largest body of other requests.")
    max_streams_per_client: int = Field(default=500, description="Log streams and channels that a client may have open.")
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
    executor: Literal["local", "ray", "k8s"] = Field(
        default="local",
        description="Where training, evaluation and export run: processes of this machine, a Ray cluster, or Kubernetes pods.",
    )
    ray_address: str | None = Field(
        default=None, description="HOST:PORT of the Ray cluster that this machine is a node of; one of this machine is started if unset."
    )
    cluster_gpus: bool | None = Field(
        default=None,
        description="Whether nodes take GPUs of the cluster; if unset, on Ray where it has any when the node starts, on Kubernetes always.",
    )
    nodes_per_gpu: int = Field(default=1, ge=1, le=64, description="How many training or evaluation nodes may share a GPU at a time.")
    min_free_bytes: int = Field(
        default=0, ge=0, description="Free bytes of the home folder's disk under which uploads and new jobs are refused; 0 for never."
    )
    max_dataset_bytes_per_owner: int = Field(default=0, ge=0, description="Bytes of uploaded files that a user may have; 0 for any number.")
    max_jobs_per_owner: int = Field(default=0, ge=0, description="Jobs of a user that may wait or run at a time; 0 for any number.")
    max_runtime: int = Field(default=0, ge=0, description="Seconds that a job may run at most; 0 for any time.")
    retention_days: int = Field(default=90, ge=1, description="Days after which `llm-platform prune` removes what ended jobs left.")
    drain_seconds: int = Field(default=10, ge=0, description="Seconds that an API process which is asked to stop gives open requests.")
    drain_delay: int = Field(
        default=0, ge=0, description="Seconds before that in which it still takes new ones, so that a proxy sees in /health that it goes."
    )
    threads: int = Field(default=0, description="Threads of a training process; 0 leaves the choice to PyTorch.")

    @model_validator(mode="after")
    def _whole_provider(self) -> Self:
        given = [self.oidc_issuer, self.oidc_audience, self.oidc_jwks_url]
        if any(given) and not all(given):
            raise ValueError("oidc_issuer, oidc_audience and oidc_jwks_url go together")
        return self

    @model_validator(mode="after")
    def _databases_apart(self) -> Self:
        if self.dagster_database_url and not self.dagster_database_url.startswith(("postgresql://", "postgresql+psycopg2://")):
            raise ValueError("dagster_database_url must be of a Postgres: postgresql://USER:PASSWORD@HOST/DATABASE")
        if self.dagster_database_url and self.dagster_database_url == self.mlflow_database_url:
            # Both keep their schema's version in a table of the same name.
            raise ValueError("dagster_database_url and mlflow_database_url must be of two databases")
        if (self.compute_logs_bucket or self.mlflow_artifacts) and self.s3_endpoint is None:
            raise ValueError("compute_logs_bucket and mlflow_artifacts need s3_endpoint")
        return self

    @property
    def gpu_pods(self) -> bool:
        """Whether heavy nodes run in pods that ask for GPUs."""
        return self.executor == "k8s" and self.cluster_gpus is not False

    @cached_property
    def root(self) -> Path:
        """The home folder, absolute, made on first use, for its owner alone."""
        path = self.home.expanduser().resolve()
        path.mkdir(0o700, parents=True, exist_ok=True)
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
        return with_driver(self.database_url) if self.database_url else f"sqlite:///{self.root / 'platform.db'}"

    @property
    def resolved_mlflow_database_url(self) -> str:
        return with_driver(self.mlflow_database_url) if self.mlflow_database_url else f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def resolved_mlflow_artifacts(self) -> str:
        return self.mlflow_artifacts or str(self.root / "mlartifacts")

    @property
    def resolved_mlflow_url(self) -> str:
        """Raises ServiceUnavailable where only a running platform's own server can reach its artifacts, and none runs."""
        if self.mlflow_url:
            return self.mlflow_url
        if self.mlflow_database_url is None and self.mlflow_artifacts is None:
            return self.resolved_mlflow_database_url
        from llm_platform.services import running_service

        server = running_service(self, "mlflow")
        if server is None or server.url is None:
            raise ServiceUnavailable("MLflow does not run: start the platform with 'llm-platform up', or set LLM_PLATFORM_MLFLOW_URL")
        return server.url
