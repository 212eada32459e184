"""DatasetAgent and ValidationAgent: which rows there are, and whether they can be trusted."""

from __future__ import annotations

from pathlib import Path

from llm_platform.agents.node import Work
from llm_platform.data.digest import CODE_VERSION, digest
from llm_platform.errors import DatasetError, InvalidConfig
from llm_platform.specs import AgentClass, DatasetConfig, ValidationConfig
from llm_platform.specs.results import NodeResult
from llm_platform.storage import parse_address


def run_dataset(work: Work) -> NodeResult:
    """The rows as canonical Parquet; `artifacts.table` is its address, `data` its rows, columns and digest."""
    import polars as pl

    config = work.node.config
    assert isinstance(config, DatasetConfig)
    platform, reporter = work.platform, work.reporter
    table, source, digest_in = _uploaded(work, config) if config.dataset_id else _from_address(work, config)
    if config.columns or config.limit:
        key = digest(CODE_VERSION, digest_in, {"columns": config.columns, "limit": config.limit})
        address = _cached_table(work, key)
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
        data={"rows": rows, "columns": columns, "digest": digest_in, "source": source, "dataset_id": config.dataset_id},
    )


def _uploaded(work: Work, config: DatasetConfig) -> tuple[str, str, str]:
    row = work.platform.database.dataset(config.dataset_id or "")
    if row is None:
        raise InvalidConfig(f"There is no dataset '{config.dataset_id}'", field="dataset_id", agent=work.node.agent_name)
    work.reporter.info(f"Starting dataset ingestion: {row['filename']} ({row['size_bytes']:,} bytes)")
    return row["table_path"], row["dataset_id"], row["sha256"]


def _from_address(work: Work, config: DatasetConfig) -> tuple[str, str, str]:
    from llm_platform.data.read import detect_format, to_parquet

    platform = work.platform
    settings = platform.settings
    text = config.file_path or ""
    parse_address(text, [settings.datasets_bucket, settings.artifacts_bucket, *settings.extra_buckets])
    work.reporter.info(f"Starting dataset ingestion: {text}")
    stat = platform.storage.stat(text)
    if stat is None:
        raise DatasetError(f"There is no file at {text}", field="file_path", agent=work.node.agent_name)
    local = platform.storage.as_local(text, settings.work / "inputs")
    key = digest(CODE_VERSION, local, {"format": config.format})
    address = _cached_table(work, key)
    if platform.storage.exists(address):
        work.reporter.info("The same file was read before; its table is used")
    else:
        name = Path(text).name
        with work.node.scratch(platform) as scratch:
            seen = detect_format(local, name, config.format)
            to_parquet(local, seen, scratch / "table.parquet", name)
            platform.storage.put_file(scratch / "table.parquet", address, move=True)
    return address, text, key


def _cached_table(work: Work, key: str) -> str:
    return f"s3://{work.platform.settings.artifacts_bucket}/cache/tables/{key}.parquet"


def run_validation(work: Work) -> NodeResult:
    """The same rows, or those that hold; `data.report` is the whole report. Raises DatasetError with the first violations."""
    from llm_platform.data.validate import validate

    config = work.node.config
    assert isinstance(config, ValidationConfig)
    platform, reporter = work.platform, work.reporter
    (source,) = work.of(AgentClass.DATASET)
    table = source.result.artifacts["table"]
    with work.node.scratch(platform) as scratch:
        out = scratch / "table.parquet"
        report = validate(platform.storage.as_local(table, platform.settings.work / "inputs"), config, out)
        for check in report.checks:
            say = reporter.info if check.passed else reporter.warn
            say(f"Check {check.name}: {'passed' if check.passed else check.message}", check=check.name, failures=check.failures)
        key = source.result.data["digest"]
        if out.exists():
            key = digest(CODE_VERSION, key, config.model_dump(mode="json"))
            table = _cached_table(work, key)
            platform.storage.put_file(out, table, move=True)
    result = NodeResult(
        artifacts={"table": table},
        datasets=source.result.datasets,
        metrics={"rows_in": report.rows_in, "rows_out": report.rows_out},
        data={**source.result.data, "digest": key, "rows": report.rows_out, "report": report.model_dump(mode="json")},
    )
    work.node.partial = result
    report.raise_if_failed()
    reporter.info(f"Validation passed: {report.rows_out} of {report.rows_in} rows go on")
    return result
