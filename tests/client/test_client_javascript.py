"""The JavaScript SDK: its own tests, which start a real platform, from a fresh install; and its errors, held against Python's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_platform.errors import error_classes

SDK = Path(__file__).resolve().parents[2] / "sdk" / "js"


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js with npm")
def test_the_package_installs_builds_and_passes_its_tests() -> None:
    install = "npm ci --omit=optional --ignore-scripts --no-audit --no-fund"
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(f"{install} && npm test", shell=True, cwd=SDK, env=environment, capture_output=True, text=True, timeout=500)
    failed = re.findall(r"^not ok .*?^  \.\.\.$", done.stdout, re.MULTILINE | re.DOTALL)
    assert done.returncode == 0, "\n".join(failed) or done.stdout[-4000:] + done.stderr[-4000:]


def test_the_errors_are_those_of_the_python_sdk() -> None:
    source = (SDK / "src" / "errors.ts").read_text(encoding="utf-8")
    constant = r"\n  static (?:override )?readonly {}(?:: \w+)? = "
    pattern = r"class (\w+) extends \w+ {" + constant.format("code") + r'"(\w+)";' + constant.format("status") + r"(\d+);"
    found = {(name, code, int(status)) for name, code, status in re.findall(pattern, source)}
    assert found == {(cls.__name__, cls.code, cls.status) for cls in error_classes()}
