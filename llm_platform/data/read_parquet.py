"""Parquet to canonical Parquet, in bounded memory also where a small file stands for a huge table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llm_platform.data.canonical import (
    MAX_CELL_BYTES,
    MAX_COLUMNS,
    Source,
    Table,
    cell_too_long,
    check_columns,
    is_text,
    pc,
    shown,
    texts,
    writer,
)

MAX_GROWTH = 200
FREE_BYTES = 2**28
"""A file may grow to FREE_BYTES plus MAX_GROWTH times its size; text compressed with zstd grows 3 to 10 times."""

BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 16_384
_FOOTER_BYTES = 64 * 2**20
_DICTIONARIES = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}
_DELTA = "DELTA_BYTE_ARRAY"


def read_parquet(path: Path, source: Source, out: Path) -> Table:
    """Writes the canonical table. Raises DatasetError if the file is corrupt, or stands for far more than it holds."""
    allowed = FREE_BYTES + MAX_GROWTH * path.stat().st_size
    try:
        with _open(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            _check_declared(metadata, allowed, source)
            check_columns(schema.names, source)
            target = pa.schema([(name, _canonical(kind, name, source)) for name, kind in zip(schema.names, schema.types, strict=True)])
            paths = _dictionary_paths(metadata)
            with _open(path, paths) as dictionaries, writer(out, target, source) as table:
                grown = 0
                for group in range(metadata.num_row_groups):
                    for batch in _batches(file, dictionaries, paths, group):
                        for part in _decoded(batch, target, table.rows, source):
                            grown += part.nbytes
                            if grown > allowed:
                                raise _bomb(source, grown, allowed)
                            table.write(part)
    except (pa.ArrowException, OSError, ValueError, MemoryError, UnicodeDecodeError) as error:
        # Arrow's own words may hold the path.
        raise source.error("it is not a readable Parquet file; it is truncated, corrupt or encrypted") from error
    return Table(table.rows, target.names)


def _open(path: Path, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    return pq.ParquetFile(
        path, read_dictionary=list(dictionaries), pre_buffer=False, buffer_size=2**20,
        thrift_string_size_limit=_FOOTER_BYTES, thrift_container_size_limit=1_000_000,
    )  # fmt: skip


def _dictionary_paths(metadata: pq.FileMetaData) -> list[str]:
    """The columns of texts that may be written as dictionaries; Arrow cannot read DELTA_BYTE_ARRAY into one."""
    encodings: dict[str, set[str]] = {}
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        for column in (group.column(index) for index in range(group.num_columns)):
            if column.physical_type == "BYTE_ARRAY":
                encodings.setdefault(column.path_in_schema, set()).update(column.encodings)
    return [path for path, used in encodings.items() if used & _DICTIONARIES and _DELTA not in used]


def _batches(file: pq.ParquetFile, dictionaries: pq.ParquetFile, paths: Sequence[str], group: int) -> Iterator[pa.RecordBatch]:
    """The rows of a group, so many at a time that they are about BATCH_BYTES, or are texts in dictionaries."""
    found = file.metadata.row_group(group)
    columns = [found.column(index) for index in range(found.num_columns)]
    flat = all(path in file.schema_arrow.names for path in paths)
    if flat and found.total_byte_size <= BATCH_BYTES and found.num_rows <= BATCH_ROWS and not any(_DELTA in c.encodings for c in columns):
        return dictionaries.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], use_threads=False)
    size = _batch_rows(found, _longest(dictionaries, paths, group))
    return file.iter_batches(batch_size=size, row_groups=[group], use_threads=False)


def _longest(dictionaries: pq.ParquetFile, paths: Sequence[str], group: int) -> int:
    """Bytes of the longest text in the dictionaries of a row group, each of which is in the file once and may be repeated
    millions of times. (Reading all rows as dictionaries would take several times as long as the texts themselves.)"""
    if not dictionaries.metadata.row_group(group).num_rows or not paths:
        return 0
    # A dictionary comes with the first row that has a value; for most columns that is the very first.
    first = next(dictionaries.iter_batches(batch_size=1, row_groups=[group], columns=list(paths), use_threads=False))
    found = [length for column in first.columns for length in _text_lengths(column)]
    if 0 in found or len(found) < len(paths):
        for path in paths:
            for batch in dictionaries.iter_batches(batch_size=64, row_groups=[group], columns=[path], use_threads=False):
                lengths = [length for column in batch.columns for length in _text_lengths(column)]
                if any(lengths):
                    found += lengths
                    break
    return max(found, default=0)


def _text_lengths(column: pa.Array) -> Iterator[int]:
    """The longest text in each of the column's dictionaries, 0 for an empty one."""
    return (pc.max(pc.binary_length(text)).as_py() or 0 for text in texts(column))


def _check_declared(metadata: pq.FileMetaData, allowed: int, source: Source) -> None:
    """Refuses by the footer alone what would be too much."""
    if not metadata.num_rows:
        raise source.error("it has no rows", rows=0)
    if metadata.num_columns > MAX_COLUMNS:
        raise source.error(f"it has {metadata.num_columns:,} columns; at most {MAX_COLUMNS:,} are allowed", columns=metadata.num_columns)
    widths = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}
    declared = 0
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        for column in (group.column(index) for index in range(metadata.num_columns)):
            # Run lengths and dictionaries hide the number of values in a few bytes.
            values = column.num_values * widths.get(column.physical_type, 8)
            declared += max(column.total_uncompressed_size, values)
        if declared > allowed:
            raise _bomb(source, declared, allowed)


def _bomb(source: Source, size: int, allowed: int) -> Exception:
    message = f"it would grow to more than {size:,} bytes in memory; a file of its size may grow to {allowed:,}"
    return source.error(message, bytes=size, allowed=allowed)


def _batch_rows(group: pq.RowGroupMetaData, longest: int) -> int:
    """How many rows of a group are about BATCH_BYTES, where every text in a dictionary may be as long as the longest."""
    size = 0
    for column in (group.column(index) for index in range(group.num_columns)):
        values = column.num_values
        if _DELTA in column.encodings:  # a text is the one before it and what is new; each may be as long as all
            size += group.num_rows * column.total_uncompressed_size
        elif _DICTIONARIES & set(column.encodings) and column.physical_type == "BYTE_ARRAY":
            size += max(values * longest, column.total_uncompressed_size)
        else:
            size += max(values, column.total_uncompressed_size)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(1, size)))


def _canonical(kind: pa.DataType, name: str, source: Source) -> pa.DataType:
    """The type that a column gets: text is `string`, a dictionary is its values, a column of nothing is text."""
    if pa.types.is_dictionary(kind):
        return _canonical(kind.value_type, name, source)
    if is_text(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_canonical(field.type, name, source)) for field in kind.fields])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(kind.value_field.with_type(_canonical(kind.value_type, name, source)))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        raise source.error(f"column {shown(name)} holds bytes; texts, numbers, dates, lists and structs are read", column=name)
    return kind


def _decoded(batch: pa.RecordBatch, target: pa.Schema, before: int, source: Source) -> Iterator[pa.RecordBatch]:
    """The batch in canonical types, in parts of about BATCH_BYTES however long the texts behind its dictionaries are."""
    length = 0
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.DictionaryArray) and is_text(column.dictionary.type):
            sizes = pc.fill_null(pc.take(pc.binary_length(column.dictionary), column.indices), 0)
            if (pc.max(sizes).as_py() or 0) > MAX_CELL_BYTES:
                raise cell_too_long(source, before + 1 + pc.index(pc.greater(sizes, MAX_CELL_BYTES), True).as_py(), name)
            length += pc.sum(sizes.cast(pa.int64())).as_py() or 0
    parts = 1 + length // BATCH_BYTES
    step = max(1, -(-batch.num_rows // parts))
    for start in range(0, batch.num_rows, step):
        part = batch.slice(start, step)
        columns = [column.cast(kind) for column, kind in zip(part.columns, target.types, strict=True)]
        yield pa.record_batch(columns, schema=target)
