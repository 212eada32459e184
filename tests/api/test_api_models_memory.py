"""A large download needs little memory: the API, as a process of its own, streams a gigabyte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIZE = 2**30
MOST_GROWTH = 50 * 2**20

SERVER = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import httpx
from tests.api.api_harness import Start

folder, size = Path(sys.argv[1]), int(sys.argv[2])
(folder / "adapter").mkdir()
with (folder / "adapter" / "adapter_model.safetensors").open("wb") as file:
    file.truncate(size)
(folder / "small").mkdir()
(folder / "small" / "adapter_model.safetensors").write_bytes(bytes(3_000_000))

def download(api, model_id):
    received = 0
    with api.client.stream("GET", f"/models/{model_id}/download") as answer:
        assert answer.status_code == 200, answer.read()
        for piece in answer.iter_raw():
            received += len(piece)
    assert received == int(answer.headers["content-length"])
    return received

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

with Start(folder)() as api:
    registry = api.services.registry
    for name in ("adapter", "small"):
        begun = registry.begin(f"model_{name}", name, "train", "big", "org/base", {"method": "lora"}, {}, [])
        registry.register(begun, folder / "small", "big")
        stored = api.services.storage.put_folder(folder / name, f"s3://artifacts/{name}/adapter")
        registry.set_export(f"model_{name}", "adapter", stored.address, stored.sha256)
    download(api, "model_small")
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = kilobytes("VmRSS")
    received = download(api, "model_adapter")
    print(received, (kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.slow
def test_a_gigabyte_streams_in_bounded_memory(tmp_path: Path) -> None:
    call = [sys.executable, "-c", SERVER, str(tmp_path), str(SIZE)]
    done = subprocess.run(call, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    received, growth = map(int, done.stdout.split()[-2:])
    assert received > SIZE and growth < MOST_GROWTH
    print(f"{growth / 2**20:.1f} MiB of growth")
