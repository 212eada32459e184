"""Runs one test against a copy of the library with a patch in it, in a process that `children.PRELOAD` was imported for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


def run_test(root: Path, test: str, output: Path) -> None:
    """Ends the process with pytest's exit code; what it printed goes to `output`. `root` has the copies of library and tests."""
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    # What the process was forked with is the library as it is, not the copy.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("llm_platform", "tests")]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    import llm_platform

    assert llm_platform.__file__ is not None and Path(llm_platform.__file__).is_relative_to(root)
    # The process was forked with plugins of pytest imported.
    options = [
        "-x",
        "-q",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "-p",
        "no:cacheprovider",
        f"--rootdir={root}",
        f"--config-file={root / 'pyproject.toml'}",
    ]
    sys.exit(pytest.main([str(root / test), *options, f"--basetemp={root / 'tmp'}"]))
