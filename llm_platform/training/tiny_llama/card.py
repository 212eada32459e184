"""The model card that lies beside the weights."""

import json
from dataclasses import asdict

from llm_platform.training.tiny_llama.recipe import MODEL_NAME, Recipe

TEXT = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [llama, tiny, generated-data]
---

# {name}

A Llama of {parameters:,} parameters, built on this machine by the project itself, for demonstrations and tests.
No weights and no text were downloaded: it was pre-trained for language modelling on about {tokens:,} tokens of English
text that the recipe generates (prose about an invented shop, everyday sentences, JSON, tables, numbers).
It has seen no instruction with its answer; it is a base model, and of use only after it is tuned.

- Recipe: `{recipe_hash}`, seed {seed}
- Tokenizer: SentencePiece BPE with byte fallback, {vocabulary:,} pieces; BOS is put first
- Context: {context:,} tokens

```json
{recipe}
```
"""


def card(recipe: Recipe, recipe_hash: str, parameters: int) -> str:
    """The text of README.md; `parameters` is the count of the model's weights."""
    return TEXT.format(
        name=MODEL_NAME, parameters=parameters, tokens=recipe.steps * recipe.tokens_per_step, recipe_hash=recipe_hash,
        seed=recipe.seed, vocabulary=recipe.vocabulary, context=recipe.context,
        recipe=json.dumps(asdict(recipe), indent=2),
    )  # fmt: skip
