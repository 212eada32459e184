"""Asks a .gguf file in llama.cpp, as xllamacpp has it: `python -m llm_platform.export.llama_runtime REQUEST ANSWERS`.

REQUEST is JSON: `model` (a path), `prompts` (lists of token ids), `texts`, `conversations`, `max_new_tokens`, `context` (tokens) and
`threads`. ANSWERS becomes a line of JSON per question, in that order: of a prompt `ids` (without the one that ended it), `stopped` and
`first` (the likeliest first tokens as [id, log-probability]), of a text `ids`, of a conversation its `text` or, if the template
cannot write it, `error`.
"""

from __future__ import annotations

import importlib
import json
import secrets
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

LIKELIEST = 10


def main(request: Path, answers: Path) -> None:
    asked = json.loads(request.read_text("utf-8"))
    key = secrets.token_hex()
    server = _server(asked, key)

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        call = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(call) as answer:
            return json.load(answer)

    with answers.open("w", encoding="utf-8") as file:

        def tell(answer: dict[str, Any]) -> None:
            file.write(json.dumps(answer) + "\n")
            file.flush()

        for prompt in asked["prompts"]:
            tell(_answer(post, prompt, asked["max_new_tokens"]))
        for text in asked["texts"]:
            tell({"ids": post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]})
        for conversation in asked["conversations"]:
            try:
                tell({"text": post("/apply-template", {"messages": conversation})["prompt"]})
            except urllib.error.HTTPError as error:
                tell({"error": error.read().decode("utf-8", "replace")[:300]})


def _server(asked: dict[str, Any], key: str) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no types
    parameters = xllamacpp.CommonParams()
    parameters.model.path = asked["model"]
    parameters.n_ctx = asked["context"]
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.warmup = False
    parameters.ui = False
    parameters.api_keys = [key]  # it listens on loopback, where others may be
    if asked["threads"] > 0:
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = asked["threads"]
    return xllamacpp.Server(parameters)


def _answer(post: Any, prompt: list[int], most: int) -> dict[str, Any]:
    """Greedy, from the model's own probabilities: no sampler but the temperature, which is 0."""
    sampling = {"temperature": 0, "samplers": ["temperature"], "n_probs": LIKELIEST, "return_tokens": True, "cache_prompt": False}
    found = post("/completion", {"prompt": prompt, "n_predict": most, **sampling})
    steps = found.get("completion_probabilities", [])  # weights that are no numbers give none
    stopped = found["stop_type"] == "eos"
    first = [[token["id"], token["logprob"]] for token in steps[0]["top_logprobs"]] if steps else []
    return {"ids": found["tokens"][:-1] if stopped else found["tokens"], "stopped": stopped, "first": first}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
