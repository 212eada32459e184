"""The prompt templates, as Jinja files."""
