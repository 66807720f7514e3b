"""The ``moe-search`` command: one file a verb, heavy imports inside the verbs."""

from moe_search.experiments.cli.main import main

__all__ = ["main"]
