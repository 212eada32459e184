"""The command `llm-platform`. What a command needs is imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from llm_platform.errors import Conflict, InvalidConfig, InvalidInput, PlatformError

ServiceName = Literal["api", "dagster-code", "dagster-daemon", "dagster-webserver", "dagster-workers", "mlflow"]

if TYPE_CHECKING:
    from llm_platform.database import Database
    from llm_platform.settings import Settings
    from llm_platform.specs import PreprocessingConfig, TrainingConfig
    from llm_platform.specs.audit import AuditAction

try:
    import typer
except ModuleNotFoundError:
    sys.exit("The command llm-platform needs more than the SDK: pip install 'llm-platform[server]'")

app = typer.Typer(
    name="llm-platform",
    help="Fine-tune language models without writing training code: REST API, Dagster UI and notebooks over one core.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

keys = typer.Typer(help="API keys: who may use the platform, where LLM_PLATFORM_AUTHENTICATION is true.", no_args_is_help=True)
app.add_typer(keys, name="keys")

HomeOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the databases, datasets and models; LLM_PLATFORM_HOME, or .home here, if not given.", file_okay=False),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"llm-platform {version('llm-platform')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def up(
    home: HomeOption = None,
    host: Annotated[str, typer.Option(help="Address on which the API listens; all else stays on loopback.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 8000,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show what the services log.")] = False,
) -> None:
    """Run the platform: API, Dagster and MLflow, started, watched and stopped as one. Ctrl-C stops it."""
    from llm_platform.supervisor.platform import up as run

    raise typer.Exit(run(_settings(home), host=host, port=port, verbose=verbose))


@app.command()
def serve(
    service: Annotated[ServiceName, typer.Argument(help="Which of them.")],
    host: Annotated[str, typer.Option(help="Address on which it listens. All but the API ask nobody for a key.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="api 8000, dagster-code 4000, dagster-webserver 3000, mlflow 5000.")
    ] = None,
    advertise: Annotated[str | None, typer.Option(help="dagster-code: the name under which the other services find it.")] = None,
    home: HomeOption = None,
) -> None:
    """Run one service of the platform alone, as containers do. dagster-code comes first: it writes where the others find it."""
    from llm_platform.supervisor.single import serve as run

    run(_settings(home), service, host=host, port=port, advertise=advertise)


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
    home: HomeOption = None,
) -> None:
    """Say what is configured, whether it can be reached and used, and what to do where not; 1 if something is wrong."""
    from llm_platform.check import main as run

    raise typer.Exit(run(_settings(home), as_json))


@app.command("restart-api")
def restart_api(home: HomeOption = None) -> None:
    """Replace the API's process by a new one without refusing or losing a request. Dagster, MLflow and jobs go on."""
    from llm_platform.supervisor.restart import restart_api as run

    settings = _settings(home)
    before, after = run(settings)
    _record(settings, "api.restart", f"process {before}, now {after}")
    typer.echo(f"Process {after} serves the API; process {before} ends when the requests that it has are answered")


@app.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option(help="Age, such as 30d or 12h; LLM_PLATFORM_RETENTION_DAYS, if not given.", metavar="AGE")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes/--dry-run", help="Remove it; else only show what would go.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that goes as JSON.")] = False,
    home: HomeOption = None,
) -> None:
    """Show what is old and nobody needs, or remove it: runs, logs, checkpoints, artifacts, incomplete uploads. Models stay whole."""
    from llm_platform.retention_view import main as run

    raise typer.Exit(run(older_than, yes, as_json, _settings(home)))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder, with room for all of the home folder.", file_okay=False)],
    home: HomeOption = None,
) -> None:
    """Copy everything that is kept in the home folder, also while the platform runs. For Postgres and S3 see docs/deployment.md."""
    from llm_platform.backup import backup as run

    typer.echo(f"{run(_settings(home), folder):,} bytes in {folder}")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="What `backup` made.", exists=True, file_okay=False)],
    home: HomeOption = None,
) -> None:
    """Make a home folder, which must be empty or not there, from a backup."""
    from llm_platform.backup import restore as run

    settings = _settings(home)
    run(settings, folder)
    _record(settings, "platform.restore", f"from {folder.name}")
    typer.echo(f"Restored into {settings.root}; start it with 'llm-platform up'")


@app.command()
def demo(
    home: HomeOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running afterwards, until Ctrl-C.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the adapter and the model card; output in the home folder, if not given.", file_okay=False),
    ] = None,
) -> None:
    """Show the main job from end to end: upload, fine-tune, evaluate, compare answers, download."""
    from llm_platform.demo import main as run

    raise typer.Exit(run(home=home, keep=keep, output=output))


@app.command()
def cp(
    file: Annotated[Path, typer.Argument(help="A file on this machine.", exists=True, dir_okay=False, readable=True)],
    address: Annotated[str, typer.Argument(help="Where to put it, for example s3://datasets/training_data.csv.")],
    home: HomeOption = None,
) -> None:
    """Put a file into the object store, where a pipeline can read it by its address."""
    from llm_platform.storage import parse_address, storage_from

    settings = _settings(home)
    notebooks = [root.split("/")[2] for root in settings.notebook_roots if isinstance(root, str)]
    parse_address(address, [settings.datasets_bucket, settings.artifacts_bucket, *settings.extra_buckets, *notebooks])
    stored = storage_from(settings).put_file(file, address)
    _record(settings, "store.put", stored.address)
    typer.echo(f"{stored.address}  {stored.size_bytes:,} bytes  sha256 {stored.sha256}")


@app.command()
def preflight(
    target: Annotated[Path, typer.Argument(help="A data file, or a pipeline config (JSON with nodes).", exists=True, dir_okay=False)],
    base_model: Annotated[str, typer.Option(help="Of a data file: whose tokenizer is tried.")] = "llm-platform/tiny-llama",
    template: Annotated[str | None, typer.Option(help="Of a data file: alpaca, chatml, llama3, tokenizer ...")] = None,
    max_length: Annotated[int | None, typer.Option(help="Of a data file: longest row in tokens.")] = None,
    method: Annotated[str | None, typer.Option(help="Of a data file: lora, qlora or full.")] = None,
    rows: Annotated[
        list[int] | None, typer.Option("--row", help="Row, from 0, whose tokens are shown; may be given several times.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, max=100_000, help="First rows that are looked at.")] = 10_000,
    home: HomeOption = None,
) -> None:
    """Try data and templates before training: row counts, token lengths, the loss mask of rows, steps, memory, time."""
    from llm_platform.preflight_view import main as run

    settings = _settings(home)
    config = {"base_model": base_model, "template": template, "max_length": max_length}
    raise typer.Exit(run(target, config, {"method": method}, rows or [0, 1, 2], sample, settings))


@app.command()
def verify(
    model_id: Annotated[str, typer.Argument(help="As GET /models lists it, for example model_abc123.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole result as JSON.")] = False,
    home: HomeOption = None,
) -> None:
    """Compute a model's chain of hashes again, from the stored bytes of data, base model, weights and exports; 1 if one is broken."""
    from llm_platform.verify import main as run

    raise typer.Exit(run(model_id, as_json, _settings(home)))


@app.command()
def reindex(home: HomeOption = None) -> None:
    """Rebuild the list of models from MLflow, which is the one truth about them."""
    from llm_platform.models import reindex as run
    from llm_platform.registry import Registry

    with _database(home) as database:
        found = f"{run(Registry(_settings(home).resolved_mlflow_url), database)} models"
    _record(_settings(home), "models.reindex", found)
    typer.echo(found)


@keys.command("create")
def create_key(
    owner: Annotated[str, typer.Argument(help="The user for whom the key speaks; several keys of one user see the same things.")],
    scope: Annotated[str | None, typer.Option(help="read, write (the default), or admin: everything of everybody.")] = None,
    expires_in_days: Annotated[int | None, typer.Option(help="The key does not expire if not given.")] = None,
    home: HomeOption = None,
) -> None:
    """Make an API key. It is shown now and never again."""
    from llm_platform import audit as trail
    from llm_platform import keys as store
    from llm_platform.specs.base import spec_from_options
    from llm_platform.specs.keys import KeyRequest

    request = spec_from_options(KeyRequest, {"owner": owner, "scope": scope, "expires_in_days": expires_in_days})
    with _database(home) as database:
        made = store.create(request, database)
        trail.record(database, None, "key.create", made.key_id)
    typer.echo(f"Key {made.key_id} of {made.owner}, scope {made.scope}; it is not shown again:", err=True)
    typer.echo(made.key)


@keys.command("list")
def list_keys(home: HomeOption = None) -> None:
    """Show whose keys there are, newest first; never the keys themselves."""
    from llm_platform import keys as store

    with _database(home) as database:
        found, _ = store.listed(database)
    for key in found:
        typer.echo(f"{key.key_id}  {key.scope:<5}  {key.owner:<20}  {store.state(key)}")


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")], home: HomeOption = None) -> None:
    """End a key, at once and for good."""
    from llm_platform import audit as trail
    from llm_platform import keys as store

    with _database(home) as database:
        store.revoke(key_id, database)
        trail.record(database, None, "key.revoke", key_id)
    typer.echo(f"Key {key_id} is revoked")


@app.command()
def audit(
    actor: Annotated[str | None, typer.Option(help="Only what this user did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only this: job.submit, access.denied ...")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only from this day or time (UTC) on.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many entries.")] = 100,
    home: HomeOption = None,
) -> None:
    """Show who did what, newest first."""
    from llm_platform import audit as trail

    with _database(home) as database:
        found, total = trail.listed(
            database, limit, actor=actor, action=trail.action_named(action), since=since and since.replace(tzinfo=UTC)
        )
    for entry in found:
        who = entry.actor or "-"
        typer.echo(f"{entry.at:%Y-%m-%d %H:%M:%S}  {who:<20}  {entry.action:<21}  {entry.target}  {entry.client or 'command line'}")
    if total > len(found):
        typer.echo(f"{total - len(found):,} older entries are not shown; --limit shows more", err=True)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="CSV, JSON, JSONL, Parquet or TXT.", exists=True, dir_okay=False, readable=True)],
    out: Annotated[Path, typer.Option(help="Folder for the adapter; must not exist yet.")],
    base_model: Annotated[str, typer.Option(help="Hub id, folder, or the model that is built here.")] = "llm-platform/tiny-llama",
    template_question: Annotated[str | None, typer.Option(help="Column of the instruction or question; found if not given.")] = None,
    template_input: Annotated[str | None, typer.Option(help="Column of further input, if there is one.")] = None,
    template_answer: Annotated[str | None, typer.Option(help="Column of the answer to learn; found if not given.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps; wins over --epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    lora_r: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Longest row in tokens; longer ones are dropped.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same adapter.")] = None,
) -> None:
    """Fine-tune on a file, here and now, without the platform's services."""
    from llm_platform.specs import PreprocessingConfig, TrainingConfig
    from llm_platform.specs.base import spec_from_options

    mapping = {"instruction": template_question, "input": template_input, "output": template_answer}
    preprocessing = spec_from_options(
        PreprocessingConfig, {"base_model": base_model, "template_mapping": mapping, "max_length": max_length, "seed": seed}
    )
    training = spec_from_options(
        TrainingConfig,
        {
            "epochs": epochs,
            "max_steps": max_steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "lora_r": lora_r,
            "seed": seed,
        },
    )
    if out.exists():
        raise Conflict(f"{out} is there already; choose another folder with --out")
    _train(data, out, preprocessing, training)


def _train(data: Path, out: Path, preprocessing: PreprocessingConfig, training: TrainingConfig) -> None:
    """The library's functions one after the other. The work folder stays if it is interrupted: then the same command goes on there."""
    from llm_platform.data.preprocess import preprocess
    from llm_platform.data.read import detect_format, to_parquet
    from llm_platform.reporting import ConsoleReporter
    from llm_platform.training import base_model
    from llm_platform.training.train import train as run

    reporter = ConsoleReporter()
    work = out.with_name(f"{out.name}.work")
    splits = work / "splits"
    shutil.rmtree(splits, ignore_errors=True)  # the options may have changed; checkpoints know what they were made from
    work.mkdir(parents=True, exist_ok=True)
    to_parquet(data, detect_format(data, data.name, None), work / "table.parquet", data.name)
    settings = _settings(None)
    base = base_model.resolve(preprocessing.base_model, settings, reporter)
    preprocess([work / "table.parquet"], preprocessing, base, splits, reporter)
    result = run(training, base, splits, out, work, reporter, base_name=preprocessing.base_model, threads=settings.threads)
    shutil.rmtree(work)
    typer.echo(f"Adapter in {out}: {result.steps:,} steps in {result.seconds:.1f} s, final loss {result.final_loss:.4f}")


@contextmanager
def _database(home: Path | None) -> Iterator[Database]:
    from llm_platform.database import Database

    database = Database.from_settings(_settings(home))
    try:
        yield database
    finally:
        database.close()


def _record(settings: Settings, action: AuditAction, target: str) -> None:
    """The audit log also has what the operator changes here."""
    from llm_platform.audit import record_command

    record_command(settings, action, target)


def _settings(home: Path | None) -> Settings:
    from pydantic import ValidationError

    from llm_platform.settings import Settings

    try:
        return Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        wrong = [f"{'LLM_PLATFORM_' + str(item['loc'][0]).upper() + ': ' if item['loc'] else ''}{item['msg']}" for item in error.errors()]
        raise InvalidConfig("The settings are wrong: " + "; ".join(wrong)) from None


def main() -> None:
    """What goes wrong on purpose is one line and exit code 1, or 2 where the user asked for something that cannot be."""
    try:
        app()
    except PlatformError as error:
        typer.secho(f"Error: {error.message}", fg="red", err=True)
        sys.exit(2 if isinstance(error, InvalidInput | InvalidConfig) else 1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("llm_platform"):
            raise
        typer.secho(f"Error: {error.name} is not installed; this command needs pip install 'llm-platform[server]'", fg="red", err=True)
        sys.exit(1)
