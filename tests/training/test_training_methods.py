"""What holds for every method: it starts at the base, moves what it trains and nothing else, and comes back from disk as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from transformers import AutoModelForCausalLM, GenerationConfig

from llm_platform.errors import InvalidConfig
from llm_platform.export.export import export_merged
from llm_platform.reporting import ListReporter
from llm_platform.training import adapter, base_model, methods
from llm_platform.training.quantize import count, load_4bit
from tests.tiny_models import EOS, make_base, make_rows, make_splits, same_tensors, tensors, write_split
from tests.training.runs import ADAPTERS, METHODS, config, logits, loop, run, weights_file

CPU = torch.device("cpu")


def as_trained(base: Path, method: str, dtype: torch.dtype = torch.float32) -> Any:
    """The base model in the precision that a method trains on."""
    return load_4bit(base, dtype, CPU) if METHODS[method].get("method") == "qlora" else base_model.load(base, dtype)


@pytest.mark.parametrize("method", METHODS)
def test_it_starts_at_the_base(method: str, base: Path, splits: Path) -> None:
    assert torch.equal(logits(loop(config(method), base, splits).model), logits(as_trained(base, method)))


@pytest.mark.parametrize("method", METHODS)
def test_every_trainable_parameter_moves_and_no_frozen_one(method: str, base: Path, splits: Path) -> None:
    made = loop(config(method, max_steps=3, weight_decay=0.1), base, splits)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    made.run(lambda _: None)
    moved = {name for name, tensor in made.model.state_dict(keep_vars=True).items() if not torch.equal(tensor, before[name])}
    trained = {name for name, tensor in made.model.state_dict(keep_vars=True).items() if getattr(tensor, "requires_grad", False)}
    assert moved == trained
    assert method == "full" or all(".lora_" in name for name in trained)
    adapted = {name.rpartition(".lora_")[0] for name in trained}
    assert len(adapted) == 14 if method != "full" else trained == set(before)


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_the_same_seed_gives_the_same_bits(method: str, base: Path, splits: Path, tmp_path: Path) -> None:
    first, _ = run(config(method, epochs=2), base, splits, tmp_path / "1")
    second, _ = run(config(method, epochs=2), base, splits, tmp_path / "2")
    assert first.losses[-1][1] < 0.8 * first.losses[0][1]
    assert same_tensors(*(tensors(tmp_path / name / "out", weights_file(method)) for name in ("1", "2")))
    assert first.losses == second.losses


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_seed_is_also_that_of_the_base_s_own_dropout(method: str, base: Path, splits: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    settings = json.loads((base / "config.json").read_text()) | {"attention_dropout": 0.2}
    (tmp_path / "base" / "config.json").write_text(json.dumps(settings))
    weights = []
    for dropout in (tmp_path / "base", tmp_path / "base", base):
        made = loop(config(method, max_steps=3), dropout, splits)
        made.run(lambda _: None)
        weights.append(dict(made.parameters))
    assert same_tensors(weights[0], weights[1]) and not same_tensors(weights[0], weights[2])


@pytest.mark.parametrize("method", METHODS)
def test_measuring_the_validation_loss_changes_nothing(method: str, base: Path, splits: Path) -> None:
    """On some CPUs bitsandbytes repacks weights in evaluation mode, after which no gradient passes through them."""
    weights = []
    for every, losses in ((1, 10), (10**6, 1)):
        made = loop(config(method, evaluate_every=every), base, splits)
        made.run(lambda _: None)
        assert len(made.progress.validation) == losses
        weights.append(dict(made.parameters))
    assert same_tensors(*weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_reloaded_it_has_the_logits_that_it_had_in_memory(method: str, dtype: str, splits: Path, tmp_path: Path) -> None:
    kind: torch.dtype = getattr(torch, dtype)
    base = make_base(tmp_path / "base", dtype=kind)
    made = loop(config(method, dtype=dtype), base, splits)
    made.run(lambda _: None)
    weights = {name: parameter.detach().to(kind) for name, parameter in made.parameters.items()}
    record = {"config": made.config.model_dump(mode="json")}
    methods.save(made.model, base, EOS, record, tmp_path)
    if method == "full":  # rounded to the precision of the base's files, and not further
        assert same_tensors(weights, tensors(tmp_path, "model.safetensors"))
    expected = logits(made.model, kind)
    assert not torch.equal(expected, logits(as_trained(base, method, kind), kind))
    again = methods.load_as_trained(base, tmp_path, CPU, kind)
    assert torch.equal(logits(again, kind), expected)
    assert {type(module) for module in again.modules()} == {type(module) for module in made.model.modules()}
    for module in again.modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            assert (weight.quant_state.quant_type, weight.quant_state.nested, module.compute_dtype, weight.dtype) == (
                "nf4",
                True,
                kind,
                torch.uint8,
            )
    if METHODS[method].get("method") == "qlora":
        norms = {parameter.dtype for name, parameter in again.named_parameters() if "norm" in name}
        assert norms == {torch.float32} and adapter.causal_model(again).get_input_embeddings().weight.dtype == kind


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_gives_the_same_weights(method: str, base: Path, splits: Path) -> None:
    weights = []
    for mode in ("on", "off"):
        made = loop(config(method, gradient_checkpointing=mode, max_steps=3), base, splits)
        made.run(lambda _: None)
        assert made.causal.is_activation_checkpointing == (mode == "on")
        weights.append(dict(made.parameters))
    assert same_tensors(*weights)


@pytest.mark.parametrize("method", ADAPTERS)
def test_merged_answers_as_the_adapter_does(method: str, base: Path, splits: Path, tmp_path: Path) -> None:
    run(config(method), base, splits, tmp_path)
    result = export_merged(base, tmp_path / "out", tmp_path / "merged", ListReporter())
    # In double precision, so that what is compared is the merging, and not how each way of computing rounds.
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged").double())
    expected = logits(adapter.load_adapter(base_model.load(base, torch.float32), tmp_path / "out").double())
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, logits(base_model.load(base, torch.float32)), atol=0.1)
    quantized = METHODS[method].get("method") == "qlora"
    assert ("quantization_difference" in result.checks) == quantized
    if quantized:
        assert 1e-3 < float(result.checks["quantization_difference"]) < 1
        difference = (merged - logits(methods.load_as_trained(base, tmp_path / "out", CPU, torch.float32))).abs().max()
        assert difference > 1e-2


@pytest.mark.parametrize(("method", "quantization"), [("lora", False), ("qlora", True), ("full", False)])
def test_the_record_says_how_it_was_trained(method: str, quantization: bool, base: Path, splits: Path, tmp_path: Path) -> None:
    result, _ = run(config(method, max_steps=1), base, splits, tmp_path)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["quantization"] == ({"bits": 4, "type": "nf4", "double_quantization": True} if quantization else None)
    assert (record["dtype"], record["base_model"], record["config"]["method"]) == ("float32", "org/base", method)
    weights = sum(parameter.numel() for parameter in base_model.load(base, torch.float32).parameters())
    assert result.total_parameters == weights + (result.trainable_parameters if method != "full" else 0)
    assert not any(str(base.parent) in path.read_text() for path in (tmp_path / "out").glob("*.json"))


def test_a_4_bit_base_is_a_quarter_of_the_size_and_close_to_it(base: Path) -> None:
    model, plain = load_4bit(base, torch.float32, CPU), base_model.load(base, torch.float32)
    packed = [parameter for parameter in model.parameters() if parameter.dtype == torch.uint8]
    assert len(packed) == 14 and sum(map(count, packed)) == 2 * sum(parameter.numel() for parameter in packed)
    assert sum(map(count, model.parameters())) == sum(map(count, plain.parameters()))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            exact, weight = plain.get_parameter(f"{name}.weight"), cast(Any, module.weight)
            error = (dequantize_4bit(weight.data, weight.quant_state) - exact).abs().mean()
            assert 0 < error < 0.1 * exact.abs().mean()


@pytest.mark.parametrize(("dtype", "tied"), [(torch.float32, True), (torch.bfloat16, True), (torch.float16, False)])
def test_a_whole_model_is_complete_and_in_the_precision_of_its_base(dtype: torch.dtype, tied: bool, splits: Path, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=dtype, tied=tied)
    run(config("full"), base, splits, tmp_path)
    out = tmp_path / "out"
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "training.json"} == {
        path.name for path in out.iterdir()
    }
    stored = tensors(out, "model.safetensors")
    assert stored.keys() == tensors(base, "model.safetensors").keys()
    assert ("lm_head.weight" in stored) == (not tied)
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert json.loads((out / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    loaded: Any = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert loaded.dtype == dtype
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert GenerationConfig.from_pretrained(out).eos_token_id == EOS


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_trained_end_is_in_the_generation_config_even_if_the_first_rows_were_cut(
    method: str, base: Path, splits: Path, tmp_path: Path
) -> None:
    rows = [{**row, "input_ids": [*row["input_ids"][:-1], 77]} for row in make_rows(12, 3)]  # of a template that ends answers by 77
    for row in rows[:4]:
        row["input_ids"], row["loss_mask"] = row["input_ids"][:-1], row["loss_mask"][:-1]
    made = make_splits(tmp_path / "splits")
    write_split(made / "train.parquet", rows)
    run(config(method, max_steps=1), base, made, tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [EOS, 77]
    assert adapter.ends(tmp_path / "out") == [EOS, 77]


@pytest.mark.parametrize(
    ("expression", "adapted"),
    [
        (r".*\.(q|v)_proj", {f"{layer}.self_attn.{name}" for layer in "01" for name in ("q_proj", "v_proj")}),
        (r"model\.layers\.1\..*", {f"1.self_attn.{n}_proj" for n in "qkvo"} | {f"1.mlp.{n}_proj" for n in ("gate", "up", "down")}),
        (r".*(gate_proj|lm_head)", {"0.mlp.gate_proj", "1.mlp.gate_proj"}),
    ],
)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_expression_adapts_the_linear_layers_that_it_matches_whole(
    method: str, expression: str, adapted: set[str], base: Path, splits: Path, tmp_path: Path
) -> None:
    run(config(method, target_modules=expression, max_steps=1), base, splits, tmp_path)
    assert {name.split("layers.")[1].rpartition(".lora_")[0] for name in tensors(tmp_path / "out")} == adapted
    adapter.load_adapter(base_model.load(base, torch.float32), tmp_path / "out")


@pytest.mark.parametrize("expression", ["q_proj", r"layers\.0\..*", "lm_head", r".*\.query"])
def test_an_expression_that_matches_nothing_lists_what_there_is(expression: str, base: Path, splits: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        run(config("lora", target_modules=expression), base, splits, tmp_path)
    assert "full names" in caught.value.message and "model.layers.0.self_attn.q_proj" in caught.value.message
    assert "q_proj" in caught.value.metadata["available"]
    assert caught.value.metadata["errors"][0]["field"] == "target_modules"


@pytest.mark.parametrize(("method", "scaling"), [("lora", 32 / 16), ("rslora", 32 / 4)])
def test_rslora_scales_by_the_root_of_the_rank(method: str, scaling: float, base: Path, splits: Path) -> None:
    made: Any = loop(config(method, lora_r=16), base, splits).model
    assert {module.scaling["default"] for module in made.modules() if hasattr(module, "scaling") and isinstance(module.scaling, dict)} == {
        scaling
    }
