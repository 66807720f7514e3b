"""How many forward passes each backend has done in this process; a backend counts where it runs."""

from collections import Counter

PASSES: Counter[str] = Counter()
