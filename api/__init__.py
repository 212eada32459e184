"""The REST face of the platform."""

BASE = "/api/v1"
"""Where the resources are; health and metrics are also, or only, without it."""
