"""The sections of the report, in the order of reading: the answer first, then what it rests on."""

from typing import NamedTuple


class Section(NamedTuple):
    """A chapter; figures name the ``key`` of theirs, and ``templates/section_<key>.html.j2`` adds text and tables."""

    key: str
    title: str
    lead: str = ""


SECTIONS = (
    Section("answer", "Recommendation"),
    Section("points", "Ten points of a defended fit"),
    Section("neighbours", "Near-optimal alternatives"),
    Section("effects", "What mattered"),
    Section("search", "The search, and what its proxies are worth"),
    Section("cost", "Loss against training FLOPs"),
    Section("speedup", "Effective speedup"),
    Section(
        "laws",
        "Law fits",
        "Curves are the law for the design of the best run at the largest size; bands are 95 % intervals of the law "
        "itself. Each point is a run, moved to that design by the law, so that its distance to the curve is its own "
        "residual; hover for what was observed.",
    ),
    Section("isoflop", "Iso-FLOP curves"),
    Section("approaches", "Best size, asked three ways"),
    Section(
        "heldout",
        "Held-out check",
        "Each law was fitted to the smaller runs only and then asked for the largest scale. This, and not the fit to "
        "what it has seen, says how far it can be trusted.",
    ),
    Section("residuals", "Residuals"),
    Section("sensitivity", "Sensitivity"),
    Section("mixture", "Data mixture"),
    Section("schedules", "Capacity schedules"),
    Section("load", "Expert load"),
    Section("horizons", "Token horizons"),
    Section("budget", "Budget and runs"),
    Section("checklist", "How the laws were fitted"),
    Section("estimates", "What the estimates leave open"),
    Section("runs", "All runs"),
    Section("provenance", "Provenance"),
)
