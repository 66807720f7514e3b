"""Importers, one file a source of somebody else's runs. Each returns one flat table; mapping it is the same for all."""

from moe_search.experiments.importers.registry import Importer, get_importer, names
from moe_search.experiments.importers.source import Raw, Source

__all__ = ["Importer", "Raw", "Source", "get_importer", "names"]
