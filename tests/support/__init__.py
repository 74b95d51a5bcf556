"""Helpers that tests import: `from support.modules import load_module` (`pythonpath` in pyproject.toml)."""
