"""A rejected export is not downloaded: the answer says why, with the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_platform.specs.gate import GateResult
from tests.api.api_harness import Start

# MLflow's own, about the libraries that it uses.
pytestmark = pytest.mark.filterwarnings("ignore")

FINE = GateResult(
    runtime="llama.cpp",
    accepted=True,
    reasons=[],
    split="test",
    rows=50,
    agreement=1.0,
    required_agreement=0.99,
    same_end=1.0,
    logit_difference=0.001,
    allowed_logit_difference=0.5,
    same_tokens=1.0,
    same_template=True,
    seconds=1.5,
)
WRONG = FINE.model_copy(update={"accepted": False, "agreement": 0.4, "reasons": ["40.0% of 50 greedy answers are those of the model"]})


def test_a_rejected_export_is_not_downloaded(start: Start, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "model-f16.gguf").write_bytes(b"GGUF")
    with start() as api:
        registry = api.services.registry
        begun = registry.begin("model_g1", "g1", "train", "named", "org/base", {"method": "lora"}, {}, [])
        registry.register(begun, tmp_path / "files", "named")
        stored = api.services.storage.put_folder(tmp_path / "files", "s3://artifacts/g1/gguf")

        def download(gates: dict[str, GateResult]) -> tuple[int, dict[str, object]]:
            registry.set_export("model_g1", "gguf", stored.address, stored.sha256, gates)
            answer = api.client.get("/models/model_g1/download", params={"format": "gguf"})
            return answer.status_code, answer.json() if answer.status_code != 200 else {}

        status, body = download({"gguf.f16": WRONG, "gguf.q8_0": WRONG})
        assert (status, body["error"]) == (409, "CONFLICT") and "'gguf' export of model 'model_g1' was rejected" in str(body["message"])
        assert "gguf.f16: 40.0% of 50 greedy answers" in str(body["message"])
        expected = WRONG.model_dump(mode="json")
        assert api.client.get("/models/model_g1").json()["gates"] == {"gguf.f16": expected, "gguf.q8_0": expected}
        assert body["metadata"] == {"model_id": "model_g1", "gates": {"gguf.f16": expected, "gguf.q8_0": expected}}

        # Of several files only accepted ones are stored, so one of them is enough.
        assert download({"gguf.f16": FINE, "gguf.q8_0": WRONG}) == (200, {})
        # A new export has new figures, and none of the old ones.
        assert download({"gguf.q4_k_m": WRONG})[0] == 409
        model = registry.get("model_g1")
        assert model is not None and model.gates == {"gguf.q4_k_m": WRONG}
        assert download({}) == (200, {})
