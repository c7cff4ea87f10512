"""The project's version, which pyproject.toml reads here and run.json records."""

__version__ = "0.1.0"
