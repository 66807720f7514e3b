"""moe-search: decide which mixture-of-experts model to train, on which data, for how long.

The sub-packages are imported by name (``from moe_search.spaces.design import Design``); this module stays light so that
``moe-search --help`` answers at once.
"""

__version__ = "0.1.0"
