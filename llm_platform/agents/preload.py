"""What heavy nodes import, imported ahead of them by a process that is then forked (see `dagster_project.node_workers`)."""

from __future__ import annotations

from importlib import import_module


def everything() -> None:
    """Imports it without touching CUDA, starting a process or opening a connection."""
    import torch

    import_module("torch._inductor.compile_fx")
    import_module("transformers.modeling_utils")
    import_module("transformers.generation.utils")
    import_module("transformers.models.auto.modeling_auto")
    import_module("transformers.models.llama.modeling_llama")
    import_module("accelerate")
    import_module("llm_platform.data.preprocess")
    import_module("llm_platform.registry.preload")
    import_module("llm_platform.notebook_kernel")
    import_module("llm_platform.notebook_page")
    # On a GPU bitsandbytes asks for its features when it is imported, which a child could then not use: each imports it itself.
    if not torch.cuda.is_available():
        import_module("peft")
        import_module("bitsandbytes")
        import_module("llm_platform.evaluation.evaluate")
        import_module("llm_platform.export.export")
        import_module("llm_platform.training.train")
