"""Rows in either normal form (see layout.py) as the turns of a conversation, for templates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

Turn = tuple[str, bool, bool]
"""Of the shape of a conversation: a role, whether the turn has a content, and whether it has an input."""

_OWN_INPUT = ("alpaca",)
"""Templates with a place of their own for the input."""
_JOINTS = {"plain": "\n"}


def groups(frame: pl.DataFrame, template: str) -> Iterator[tuple[tuple[Turn, ...], pl.Series, pl.DataFrame]]:
    """The shapes that occur; for each the places of its rows in `frame`, and their contents as the columns "0", "1", and so on."""
    for part in _numbered(frame, template):
        if "roles" in part.columns:
            roles: list[str] = part["roles"][0].to_list()
            flat = part["contents"].explode()
            columns = [flat.gather_every(len(roles), offset).alias(str(offset)) for offset in range(len(roles))]
            yield tuple((role, True, False) for role in roles), part["place"], pl.DataFrame(columns)
        else:
            given = [name for name in ("system", "instruction", "input") if part[name][0] != ""]
            shape: list[Turn] = [("system", True, False)] if "system" in given else []
            shape += [("user", "instruction" in given, "input" in given), ("assistant", True, False)]
            columns = [part[name].alias(str(number)) for number, name in enumerate([*given, "output"])]
            yield tuple(shape), part["place"], pl.DataFrame(columns)


def _numbered(frame: pl.DataFrame, template: str) -> list[pl.DataFrame]:
    """The rows with their `place`, apart by shape."""
    if "roles" in frame.columns:
        return frame.with_row_index("place").with_columns(shape=pl.col("roles").list.join(",")).partition_by("shape")
    texts = slots(frame) if template in _OWN_INPUT else joined(frame, _JOINTS.get(template, "\n\n"))
    shape = ["system", "instruction", "input"]
    keys = texts.select((pl.col(name) != "").alias(f"has_{name}") for name in shape)
    numbered = texts.hstack(keys).with_row_index("place")
    if keys.n_unique() <= 1:
        return [numbered] if numbered.height else []
    return numbered.partition_by([f"has_{name}" for name in shape])


def slots(frame: pl.DataFrame) -> pl.DataFrame:
    """The four slots without nulls."""
    return frame.select(pl.col("system", "instruction", "input", "output").fill_null(""))


def joined(frame: pl.DataFrame, joint: str = "\n\n") -> pl.DataFrame:
    """The same with the input behind the instruction."""
    both = (pl.col("instruction") != "") & (pl.col("input") != "")
    whole = pl.col("instruction") + pl.when(both).then(pl.lit(joint)).otherwise(pl.lit("")) + pl.col("input")
    return slots(frame).with_columns(instruction=whole, input=pl.lit(""))


def conversations(frame: pl.DataFrame) -> list[list[dict[str, Any]]]:
    """Each row as messages of `role` and `content`; the user's of a slots row also has `instruction` and `input`."""
    if "roles" in frame.columns:
        pairs = zip(frame["roles"].to_list(), frame["contents"].to_list(), strict=True)
        return [[{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)] for roles, texts in pairs]
    found: list[list[dict[str, Any]]] = []
    users = joined(frame)["instruction"].to_list()
    for user, (system, instruction, given, output) in zip(users, slots(frame).iter_rows(), strict=True):
        messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user, "instruction": instruction, "input": given})
        found.append([*messages, {"role": "assistant", "content": output}])
    return found


def without_end(frame: pl.DataFrame, eos: str) -> pl.DataFrame:
    """The rows without an EOS token that is written out at the end of an answer."""
    if not eos:
        return frame
    if "output" in frame.columns:
        if not frame["output"].str.ends_with(eos).any():
            return frame
        return frame.with_columns(pl.col("output").str.replace(f"(?:{pl.escape_regex(eos)})+$", ""))
    ended = frame["contents"].list.eval(pl.element().str.ends_with(eos)).list.any()
    if not ended.any():
        return frame
    contents = frame["contents"].to_list()
    for row in ended.arg_true():
        contents[row] = [
            _without_end(text, eos) if role == "assistant" else text for role, text in zip(frame["roles"][row], contents[row], strict=True)
        ]
    return frame.with_columns(contents=pl.Series(contents, dtype=pl.List(pl.String)))


def _without_end(text: str, eos: str) -> str:
    while text.endswith(eos):
        text = text.removesuffix(eos)
    return text
