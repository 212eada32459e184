"""`llm-platform/tiny-llama`: a base model that is built here instead of downloaded, and the demo data to tune it with.

Importing this package imports no torch; only `ensure` does, and only when it has to build.
"""

from llm_platform.training.tiny_llama.build import ensure
from llm_platform.training.tiny_llama.demo_data import demo_rows
from llm_platform.training.tiny_llama.recipe import MODEL_NAME, RECIPE, Recipe, recipe_hash

__all__ = ["MODEL_NAME", "RECIPE", "Recipe", "demo_rows", "ensure", "recipe_hash"]
