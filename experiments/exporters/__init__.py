"""Exporters, one file a format. Each refuses what its format cannot express and lists all that would be lost."""

from moe_search.experiments.exporters.registry import Exporter, export, get_exporter, names

__all__ = ["Exporter", "export", "get_exporter", "names"]
