"""Which linear layers of a base model an adapter goes on: `target_modules` against the layers' names. Needs no model, only names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llm_platform.errors import InvalidConfig


def chosen(wanted: list[str] | str, linear: Iterable[str]) -> list[str]:
    """The full names of the layers that `all-linear`, names, or an expression that matches full names whole, stand for.

    Raises InvalidConfig where a name or the expression stands for none.
    """
    linear = list(linear)
    if wanted == "all-linear":
        return linear
    if isinstance(wanted, list):
        unknown, hint = [name for name in wanted if not any(_names(name, module) for module in linear)], ""
        found = [] if unknown else [module for module in linear if any(_names(name, module) for name in wanted)]
    else:
        found = [module for module in linear if re.fullmatch(wanted, module)]
        unknown = [wanted]
        hint = f". A regular expression must match full names, such as '{next(iter(linear), '')}'; single names are given as a list"
    if not found:
        leaves = last_parts(linear)
        message = (
            f"target_modules names {', '.join(repr(name) for name in unknown)}, which this base model has no linear layer for; "
            f"it has {', '.join(leaves)} (or say 'all-linear'){hint}"
        )
        raise InvalidConfig(message, unknown=unknown, available=leaves, errors=[{"field": "target_modules", "message": message}])
    return found


def last_parts(modules: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in modules})


def _names(wanted: str, module: str) -> bool:
    """Whether a name is that of the module, whole or from a dot on."""
    return module == wanted or module.endswith("." + wanted)
