"""`llm-platform demo`: the main job from end to end, as a user of the SDK would run it, and what came out of it."""

from llm_platform.demo.main import main

__all__ = ["main"]
