"""DatasetAgent and ValidationAgent: which rows there are, and whether they can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from llm_platform.agents.node import Work
from llm_platform.data.digest import CODE_VERSION, digest
from llm_platform.database import Database
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.settings import Settings
from llm_platform.specs import AgentClass, DatasetConfig, ValidationConfig
from llm_platform.specs.results import NodeResult
from llm_platform.storage import Storage, parse_address
from llm_platform.storage.base import file_sha256

PREFLIGHT_BYTES = 256 * 2**20


def run_dataset(work: Work) -> NodeResult:
    """The rows as canonical Parquet; `artifacts.table` is its address, `data` its rows, columns and digest."""
    import polars as pl

    config = work.node.config
    assert isinstance(config, DatasetConfig)
    platform, reporter = work.platform, work.reporter
    table, source, digest_in = _uploaded(work, config) if config.dataset_id else _from_address(work, config)
    if config.columns or config.limit:
        key = digest(CODE_VERSION, digest_in, {"columns": config.columns, "limit": config.limit})
        address = _cached_table(platform.settings, key)
        if not platform.storage.exists(address):
            frame = pl.scan_parquet(platform.storage.as_local(table, platform.settings.work / "inputs"))
            missing = [name for name in config.columns or [] if name not in frame.collect_schema().names()]
            if missing:
                have = ", ".join(frame.collect_schema().names())
                raise DatasetError(f"The dataset has no column {', '.join(missing)}; it has {have}", field="columns")
            frame = frame.select(config.columns) if config.columns else frame
            with work.node.scratch(platform) as scratch:
                (frame.head(config.limit) if config.limit else frame).sink_parquet(scratch / "table.parquet")
                platform.storage.put_file(scratch / "table.parquet", address, move=True)
        table, digest_in = address, key
    local = platform.storage.as_local(table, platform.settings.work / "inputs")
    frame = pl.scan_parquet(local)
    columns = frame.collect_schema().names()
    rows = int(frame.select(pl.len()).collect().item())
    reporter.info(f"Dataset loaded: {rows} rows", rows=rows, columns=columns)
    return NodeResult(
        artifacts={"table": table},
        datasets=[source],
        data={
            "rows": rows,
            "columns": columns,
            "digest": digest_in,
            "source": source,
            "dataset_id": config.dataset_id,
            "file": _file(work, config),
        },
    )


def _file(work: Work, config: DatasetConfig) -> dict[str, str]:
    """What somebody gave, as bytes: where it lies, and its SHA-256."""
    platform = work.platform
    row = platform.database.dataset(config.dataset_id) if config.dataset_id else None
    if row is not None:
        return {"address": row["s3_path"], "sha256": row["sha256"]}
    address = config.file_path or ""
    stat = platform.storage.stat(address)
    known = stat.sha256 if stat else None  # none where the platform did not put it there
    return {"address": address, "sha256": known or file_sha256(platform.storage.as_local(address, platform.settings.work / "inputs"))[1]}


def _uploaded(work: Work, config: DatasetConfig) -> tuple[str, str, str]:
    row = work.platform.database.dataset(config.dataset_id or "")
    if row is None:
        raise InvalidConfig(f"There is no dataset '{config.dataset_id}'", field="dataset_id", agent=work.node.agent_name)
    work.reporter.info(f"Starting dataset ingestion: {row['filename']} ({row['size_bytes']:,} bytes)")
    return row["table_path"], row["dataset_id"], row["sha256"]


def _from_address(work: Work, config: DatasetConfig) -> tuple[str, str, str]:
    platform = work.platform
    text = config.file_path or ""
    work.reporter.info(f"Starting dataset ingestion: {text}")
    address, key, reused = read_address(config, platform.settings, platform.storage, lambda: work.node.scratch(platform))
    if reused:
        work.reporter.info("The same file was read before; its table is used")
    return address, text, key


def read_address(
    config: DatasetConfig, settings: Settings, storage: Storage, scratch: Callable[[], AbstractContextManager[Path]]
) -> tuple[str, str, bool]:
    """The table of the file at `file_path`: its address, its key, and whether it had been read before."""
    from llm_platform.data.read import detect_format, to_parquet
    from llm_platform.datasets import MAX_UNPACKED

    text = config.file_path or ""
    parse_address(text, [settings.datasets_bucket, settings.artifacts_bucket, *settings.extra_buckets])
    if storage.stat(text) is None:
        raise DatasetError(f"There is no file at {text}", field="file_path")
    local = storage.as_local(text, settings.work / "inputs")
    key = digest(CODE_VERSION, local, {"format": config.format})
    address = _cached_table(settings, key)
    reused = storage.exists(address)
    if not reused:
        name = Path(text).name
        with scratch() as folder:
            seen = detect_format(local, name, config.format)
            limit = MAX_UNPACKED * settings.max_upload_bytes
            to_parquet(local, seen, folder / "table.parquet", name, max_unpacked_bytes=limit)
            storage.put_file(folder / "table.parquet", address, move=True)
    return address, key, reused


def table_of(config: DatasetConfig, settings: Settings, database: Database, storage: Storage, folder: Path) -> tuple[Path, int]:
    """The whole table that a dataset node starts from, before `columns` and `limit`, and its number of rows.

    A file that was never read is read now, by way of `folder`. Raises InvalidConfig for one of more than PREFLIGHT_BYTES.
    """
    if config.dataset_id is not None:
        row = database.dataset(config.dataset_id)
        if row is None:
            raise InvalidConfig(f"There is no dataset '{config.dataset_id}'", field="dataset_id")
        address = row["table_path"]
    else:
        stat = storage.stat(config.file_path or "")
        if stat is not None and stat.size_bytes > PREFLIGHT_BYTES:
            raise InvalidConfig(
                f"{config.file_path} has more than {PREFLIGHT_BYTES // 2**20} MiB, too much to read while you wait; "
                "upload it as a dataset and name its dataset_id",
                field="file_path",
            )
        address, _, _ = read_address(config, settings, storage, lambda: nullcontext(folder))
    import pyarrow.parquet as pq

    table = storage.as_local(address, settings.work / "inputs")
    with pq.ParquetFile(table) as file:
        return table, file.metadata.num_rows


def _cached_table(settings: Settings, key: str) -> str:
    return f"s3://{settings.artifacts_bucket}/cache/tables/{key}.parquet"


def run_validation(work: Work) -> NodeResult:
    """The same rows, or those that hold. `artifacts.report` is a folder with report.json, report.md and violations.parquet, `data.report`
    the report in short. Raises DatasetError with the first violations."""
    from llm_platform.data.canonical import shown
    from llm_platform.data.validate import validate

    config = work.node.config
    assert isinstance(config, ValidationConfig)
    platform, reporter = work.platform, work.reporter
    (source,) = work.of(AgentClass.DATASET)
    table = source.result.artifacts["table"]
    with work.node.scratch(platform) as scratch:
        out, folder = scratch / "table.parquet", scratch / "report"
        folder.mkdir()
        report = validate(platform.storage.as_local(table, platform.settings.work / "inputs"), config, out, folder)
        for check in report.checks:
            say = reporter.info if check.passed else reporter.warn
            say(f"Check {check.name}: {'passed' if check.passed else check.message}", check=check.name, failures=check.failures)
        for count in report.dropped():
            where = "" if count.column is None else f" in column {shown(count.column)}"
            reporter.info(f"Dropped {count.rows_dropped:,} rows: {count.rule}{where}", **count.model_dump())
        key = source.result.data["digest"]
        if out.exists():
            key = digest(CODE_VERSION, key, config.model_dump(mode="json"))
            table = _cached_table(platform.settings, key)
            platform.storage.put_file(out, table, move=True)
        address = f"s3://{platform.settings.artifacts_bucket}/{work.node.run_id}/validation/{work.node.agent_name}"
        platform.storage.put_folder(folder, address)
    summary = report.summary().model_dump(mode="json")
    result = NodeResult(
        artifacts={"table": table, "report": address},
        datasets=source.result.datasets,
        metrics={"rows_in": report.rows_in, "rows_out": report.rows_out, "violations": report.violations},
        data={**source.result.data, "digest": key, "rows": report.rows_out, "report": summary},
    )
    work.node.partial = result
    report.raise_if_failed()
    reporter.info(f"Validation passed: {report.rows_out} of {report.rows_in} rows go on")
    return result
