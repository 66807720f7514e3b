"""``python -m moe_search`` is the ``moe-search`` command."""

import sys

try:
    from moe_search.experiments.cli import main
except KeyboardInterrupt:  # these are small files; what is heavy is imported by main, which knows what to do
    sys.exit(130)

sys.exit(main())
