from tests.tiny_fixtures import adapter, base

__all__ = ["adapter", "base"]
