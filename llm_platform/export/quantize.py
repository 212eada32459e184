"""Quantizes a .gguf file with llama.cpp, as cyllama has it: `python -m llm_platform.export.quantize SOURCE TARGET TYPE THREADS`."""

from __future__ import annotations

import sys

TYPES = {"q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""Numbers of llama.cpp's `llama_ftype`."""


def main(source: str, target: str, kind: str, threads: str) -> None:
    from cyllama.llama.llama_cpp import LlamaModelQuantizeParams, model_quantize

    parameters = LlamaModelQuantizeParams()
    parameters.ftype = TYPES[kind]
    parameters.nthread = int(threads)
    model_quantize(source, target, parameters)


if __name__ == "__main__":
    main(*sys.argv[1:])
