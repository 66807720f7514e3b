"""``python -m moe_search`` is the ``moe-search`` command."""

import sys

from moe_search.experiments.cli import main

sys.exit(main())
