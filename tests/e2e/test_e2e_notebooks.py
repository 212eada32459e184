"""The project's notebooks as a person runs them who has a platform: by papermill, asking it over HTTP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from llm_platform.notebooks import PROJECT_NOTEBOOKS
from tests.e2e.conftest import Running, wait_for


@pytest.mark.slow
def test_finetune_on_a_running_platform(running: Running, tmp_path: Path) -> None:
    url = str(running.http.base_url).rstrip("/")
    out = tmp_path / "out.ipynb"
    given = ["-p", "platform_url", url, "-p", "model_name", "from-a-notebook", "-p", "max_samples", "8"]
    command = [sys.executable, "-m", "papermill", str(PROJECT_NOTEBOOKS / "finetune.ipynb"), str(out), "--cwd", str(tmp_path)]
    done = subprocess.run([*command, "--no-progress-bar", *given], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = nbformat.read(out, as_version=4).cells
    told = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    assert f"was submitted to {url}" in told and "accuracy: " in told

    def trained() -> str | None:
        found = running.http.get("/models", params={"name": "from-a-notebook"}).raise_for_status().json()["models"]
        return found[0]["model_id"] if found else None

    model_id = wait_for(trained, 30, "the model is listed")
    assert f"The model is {model_id}" in told
    pictures = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert pictures, "the loss that came over the log stream is drawn"
