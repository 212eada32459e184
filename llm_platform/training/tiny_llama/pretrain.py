"""Language modelling on the generated text, from random weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llm_platform.training.tiny_llama.corpus import documents
from llm_platform.training.tiny_llama.recipe import Recipe
from llm_platform.training.tiny_llama.tokenizer import fast

Progress = Callable[[str, int, int], None]


def pretrain(recipe: Recipe, tokenizer_model: bytes, progress: Progress) -> Any:
    """The trained `LlamaForCausalLM`, in float32. `progress` hears of every optimizer step."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import LlamaForCausalLM

    with _reproducible(recipe):
        model = LlamaForCausalLM(_config(recipe))
        model.train()
        optimizers = _optimizers(model, recipe)
        stream = _tokens(recipe, tokenizer_model)
        for step in range(recipe.steps):
            progress("pre-training", step, recipe.steps)
            block = recipe.long_block if step % recipe.long_every == recipe.long_every - 1 else recipe.block
            rows = max(1, recipe.tokens_per_step // block)
            batch = torch.tensor([[next(stream) for _ in range(block)] for _ in range(rows)])
            logits = model(input_ids=batch, use_cache=False).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * _schedule(step, recipe)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        progress("pre-training", recipe.steps, recipe.steps)
        return model.eval()


def _optimizers(model: Any, recipe: Recipe) -> list[tuple[Any, float]]:
    """Each optimizer with its peak learning rate. Muon for the layers' matrices: with AdamW alone, the model needs far
    more tokens until it attends to what a text is about (after 1M tokens, a probe of the topic was right for 0.36 of the
    texts with AdamW and for 0.62 to 0.72 with Muon; chance is 0.17)."""
    import torch

    matrices, others = [], []
    for name, weight in model.named_parameters():
        (matrices if weight.dim() == 2 and "embed_tokens" not in name else others).append(weight)
    return [
        (torch.optim.Muon(matrices, lr=recipe.matrix_rate, momentum=0.95, weight_decay=0.0), recipe.matrix_rate),
        (torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0), recipe.other_rate),
    ]


def _schedule(step: int, recipe: Recipe) -> float:
    """The share of the peak learning rates: a linear warm-up, a plateau, and from half way on a linear descent."""
    left = (recipe.steps - step) / recipe.steps
    return min(1.0, (step + 1) / recipe.warmup) * (0.03 + 0.97 * min(1.0, 2 * left))


def _config(recipe: Recipe) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=recipe.vocabulary, hidden_size=recipe.hidden, intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=recipe.context, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=3,
    )  # fmt: skip


def _tokens(recipe: Recipe, tokenizer_model: bytes) -> Iterator[int]:
    """The ids of document after document, each between BOS and EOS."""
    tokenizer = fast(tokenizer_model)
    # Another seed than the tokenizer's, so that its vocabulary is tried on text that it was not made from.
    for text in documents(recipe.seed + 1):
        yield from tokenizer.encode(text).ids
        yield 2


@contextmanager
def _reproducible(recipe: Recipe) -> Iterator[None]:
    """Fixed seed, threads and algorithms, and the process's own state of all three again afterwards."""
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.set_num_threads(recipe.threads)
            torch.use_deterministic_algorithms(True)
            torch.manual_seed(recipe.seed)
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)
