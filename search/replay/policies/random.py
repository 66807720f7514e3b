"""The target's designs in random order: what every other policy has to beat."""

from moe_search.search.replay.policy import Run, View


class RandomOrder:
    """Runs at the target only, without replacement."""

    def propose(self, view: View) -> list[Run]:
        """Return one run."""
        left = view.open_designs(view.target)
        return [(view.target, int(view.rng.choice(left)))] if len(left) else []


POLICY = RandomOrder
