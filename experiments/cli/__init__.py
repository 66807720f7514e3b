"""The ``moe-search`` command: one file a verb, heavy imports inside the verbs."""

try:
    from moe_search.experiments.cli.main import main
except KeyboardInterrupt:  # main deals with Ctrl-C once it is called; these few small files are all that comes before
    raise SystemExit(130) from None

__all__ = ["main"]
