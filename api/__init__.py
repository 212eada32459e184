"""The REST face of the platform."""
