"""Each correctness test is seen to fail on the bug that it is there for.

`bugs/*.patch` put one bug each back into a copy of the library. Above its diff a patch says which test must fail then, and with
which words. A patch that no longer applies fails too: renew it, together with what it changes.
"""

from __future__ import annotations

import multiprocessing
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.training import children, patched

ROOT = Path(__file__).parents[2]
PATCHES = sorted(Path(__file__).with_name("bugs").glob("*.patch"))
COPIED = (
    "llm_platform",
    "tests/training",
    "tests/evaluation",
    "tests/export",
    "tests/data/conftest.py",
    "tests/data/test_data_encode.py",
    "tests/data/test_data_tokenize.py",
    "tests/conftest.py",
    "tests/tiny_models.py",
)

pytestmark = pytest.mark.slow


def header(patch: str, name: str) -> str:
    found = re.search(rf"^{name}: (.+)$", patch, re.MULTILINE)
    assert found is not None, f"the patch has no line '{name}: ...' above its diff"
    return found.group(1)


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_the_bug_is_noticed(path: Path, tmp_path: Path) -> None:
    patch = path.read_text()
    for name in (*COPIED, "tests/tiny_fixtures.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    applied = subprocess.run(["patch", "-p1", "--fuzz=0", "--silent", "-i", path], cwd=tmp_path, capture_output=True, text=True)
    assert applied.returncode == 0, f"the patch no longer applies: {applied.stdout}"

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(children.PRELOAD)
    output = tmp_path / "output"
    process = context.Process(target=patched.run_test, args=(tmp_path, header(patch, "Test"), output))
    process.start()
    process.join()
    told = output.read_text()
    assert process.exitcode == pytest.ExitCode.TESTS_FAILED, told[-3000:]
    failures = re.findall(r"^[>E]  .*", told, re.MULTILINE)
    assert any(header(patch, "Fails with") in line for line in failures), "\n".join(failures)
