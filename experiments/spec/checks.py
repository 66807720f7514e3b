"""What can be known to be impossible before anything starts: the folder, the text, the shapes, the budget."""

from collections.abc import Iterator
from difflib import get_close_matches

from moe_search.experiments.opening import planned_problem
from moe_search.experiments.spec.campaign import Spec
from moe_search.experiments.spec.environment import looked_up
from moe_search.experiments.workspace import check_writable
from moe_search.kernels.moe_ffn import BACKENDS
from moe_search.proxies.corpus.local_files import expand
from moe_search.proxies.model.balancing import BALANCING
from moe_search.proxies.model.routers import ROUTERS
from moe_search.proxies.training.recipe import batch_tokens
from moe_search.proxies.training.schedule import plan_horizons
from moe_search.search.budget import require_one_proxy
from moe_search.spaces.design import Design, Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.knobs import options
from moe_search.spaces.resolve import resolve


def check_possible(spec: Spec) -> None:
    """Refuse a campaign that cannot be run, before it has written anything.

    Raises:
        InvalidInputError: with the field and the nearest fix.
    """
    check_writable(spec.folder)
    for where, url in (("storage", spec.storage), ("tracking.uri", spec.tracking.uri)):
        looked_up(url or "", where=where)
    check_names(spec)
    check_text(spec)
    check_shapes(spec)
    require_one_proxy(planned_problem(spec), list(_typical(spec)))


def check_names(spec: Spec) -> None:
    """Make sure that whatever is chosen by name is there.

    Raises:
        InvalidInputError: a router, a balancing or a backend is not (the nearest is suggested).
    """
    space = spec.space
    routers = options(space.routing.router if space.router is None else space.router)
    balancings = options(space.routing.balancing if space.balancing is None else space.balancing)
    for where, names, known in (
        ("space.router", routers, ROUTERS.names()),
        ("space.balancing", balancings, BALANCING.names()),
        ("training.backend", (spec.training.backend,), ("auto", *BACKENDS)),
    ):
        for name in names:
            if name not in known:
                raise InvalidInputError(
                    f"there is no {where.rpartition('.')[2]} {name!r}",
                    where=where,
                    allowed=", ".join(known),
                    fix=get_close_matches(str(name), known, n=1, cutoff=0.0)[0],
                )


def check_text(spec: Spec) -> None:
    """Make sure that the user's own files are there and can be opened.

    Raises:
        InvalidInputError: one is not.
    """
    if not isinstance(spec.corpus.source, dict):
        return
    for domain, names in spec.corpus.source.items():
        for path in expand(domain, names):
            try:
                with path.open("rb") as file:
                    file.read(1)
            except OSError as error:
                raise InvalidInputError(
                    f"{path} cannot be read ({error.strerror})", where=f"corpus.source.{domain}"
                ) from None


def check_shapes(spec: Spec) -> None:
    """Make sure that the middle of the space and its controls have integers at every size of the ladder.

    Raises:
        InvalidInputError: one has none, with the nearest feasible value.
    """
    for design in _typical(spec):
        for size in spec.ladder.sizes:
            scale = Scale(n_active=size, tokens=spec.ladder.tokens[0])
            try:
                n_active = resolve(design, scale, spec.shape).realised.n_active_non_embedding
            except InvalidInputError as error:
                where = "ladder.sizes" if error.where == "n_active" else f"space.{error.where}".rstrip(".")
                raise InvalidInputError(
                    f"at {size:,} active parameters {error.what}",
                    where=where,
                    allowed=error.allowed,
                    fix=error.fix,
                ) from None
            _check_horizons(spec, n_active)


def _check_horizons(spec: Spec, n_active: int) -> None:
    """Make sure that every horizon is long enough for warm-up and decay at the batch of a size."""
    recipe = spec.training
    batch = batch_tokens(recipe, n_active=n_active, seq_len=spec.shape.seq_len)
    try:
        plan_horizons(
            spec.ladder.tokens, batch_tokens=batch, decay_share=recipe.decay_share, warmup_steps=recipe.warmup_steps
        )
    except InvalidInputError as error:
        raise InvalidInputError(error.what, where="ladder.tokens", allowed=error.allowed, fix=error.fix) from None


def _typical(spec: Spec) -> Iterator[Design]:
    yield spec.space.center()
    yield from spec.space.controls()
