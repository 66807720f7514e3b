"""What a scaling law is: variables from raw dimensions, parameters, and a log loss with its Jacobian.

Most laws are a sum of positive terms, L = Σ_k exp(t_k(θ, x)), because a loss is an irreducible part plus what
parameters and tokens are missing. Such a law states its terms t_k and their derivatives, one line each, and the log
loss (a logsumexp) and its exact Jacobian follow for any batch of parameter vectors at once. A law of another form
states ``log_loss_and_jacobian`` itself.

A parameter vector θ is *internal*: the logarithm of a positive parameter (``transform="log"``), else the value itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]
Variables = Mapping[str, Array]
"""Variable name to values (runs,), in the law's own units; a vector variable is (runs, k)."""

Unit = Literal["", "nats/token", "bits/byte"]
BITS_PER_BYTE_OF_A_NAT_PER_TOKEN = 1 / (4.0 * np.log(2.0))
"""At four bytes a token; used for priors only, and only where a table does not hold both losses."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One coefficient of a law, and what is plausible for it before any data."""

    name: str
    meaning: str
    transform: Literal["log", "identity"] = "identity"
    lower: float
    upper: float
    center: float
    """Natural units: the centre of the weak prior and of the random starts (published coefficients where there are)."""
    spread: float
    """Standard deviation of the weak prior in internal units."""
    variables: tuple[str, ...] = ()
    """The variables whose variation is needed to determine it."""
    unit: Unit = ""
    """The unit of ``center`` where the parameter is a loss or proportional to one."""

    def internal(self, value: npt.ArrayLike) -> Array:
        """Return natural ``value`` in internal units."""
        array = np.asarray(value, dtype=np.float64)
        return np.log(array) if self.transform == "log" else array

    def natural(self, value: npt.ArrayLike) -> Array:
        """Return internal ``value`` in natural units."""
        array = np.asarray(value, dtype=np.float64)
        return np.exp(array) if self.transform == "log" else array


def amplitude(
    name: str, meaning: str, center: float, *variables: str, spread: float = 3.0, unit: Unit = "nats/token"
) -> Parameter:
    """Return a positive parameter in units of loss; ``spread`` is of its logarithm."""
    return Parameter(
        name=name,
        meaning=meaning,
        transform="log",
        lower=1e-9,
        upper=1e18,
        center=center,
        spread=spread,
        variables=variables,
        unit=unit,
    )


def coefficient(
    name: str, meaning: str, center: float, *variables: str, spread: float, lower: float = -5.0, upper: float = 5.0
) -> Parameter:
    """Return a dimensionless parameter: an exponent or an effect."""
    return Parameter(
        name=name, meaning=meaning, lower=lower, upper=upper, center=center, spread=spread, variables=variables
    )


def exponent(name: str, meaning: str, center: float, *variables: str, spread: float = 0.2) -> Parameter:
    """Return the positive exponent of a falling power law."""
    return coefficient(name, meaning, center, *variables, spread=spread, lower=1e-3, upper=2.5)


@dataclass(frozen=True)
class Term:
    """One positive term of the loss, as the logarithm of its value."""

    value: Array
    """(batch, runs), or what broadcasts to it."""
    gradient: Mapping[int, Array | float]
    """Index of a parameter to the derivative of ``value`` by it; a parameter that is left out has derivative 0."""


class Law(ABC):
    """A scaling law. A new one is a subclass in one file of ``scaling/laws``, instantiated there as ``LAW``."""

    name: str
    equation: str
    source: str
    convention: str
    """Which N, which FLOPs, which granularity: how the adaptor reads raw dimensions."""
    parameters: tuple[Parameter, ...]
    published: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Name of a published fit to its coefficients, in the source's units (nats a token)."""
    regularised: bool = False
    """Whether the weak prior is always part of the fit, or (False) only where the data leave a parameter open."""
    domains: tuple[str, ...] = ()
    """The mixture domains that the law is bound to; none for a law without a coefficient a domain."""
    definition: str | None = None
    """The text that the law was read from; None for a law of the library."""
    integrated: str | None = None
    """The parameter that is integrated over (:mod:`moe_search.scaling.integrated`); None: all are fitted."""

    @abstractmethod
    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return the law's variables from the columns of a runs table (the adaptor)."""

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the terms for ``theta``, one (batch, 1) column a parameter; none for a law of another form."""
        del theta, x
        return ()

    def for_domains(self, domains: Sequence[str]) -> "Law":
        """Return the law with its coefficients for these mixture domains; itself if it has none of such."""
        del domains
        return self

    def groups(self, frame: pl.DataFrame) -> tuple[str, ...]:
        """Return what of a table the law is bound to, where that is not its mixture domains; else nothing."""
        del frame
        return ()

    def derived(self, natural: Mapping[str, Array]) -> dict[str, Array]:
        """Return quantities that follow from the parameters (batch,), in natural units."""
        del natural
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of theta."""
        return tuple(parameter.name for parameter in self.parameters)

    def index(self, name: str) -> int:
        """Return the place of a parameter in theta."""
        return self.names.index(name)

    def internal(self, natural: Mapping[str, float]) -> Array:
        """Return theta (1, parameters) of natural values."""
        return np.array([[float(p.internal(natural[p.name])) for p in self.parameters]])

    def natural(self, theta: Array) -> dict[str, Array]:
        """Return natural values (batch,) by name of theta (batch, parameters)."""
        return {p.name: p.natural(theta[:, j]) for j, p in enumerate(self.parameters)}

    def log_loss(self, theta: Array, x: Variables) -> Array:
        """Return the natural logarithm of the loss (batch, runs) of theta (batch, parameters)."""
        return self.log_loss_and_jacobian(theta, x)[0] if self._other_form else self._sum(theta, x)[0]

    @property
    def is_sum(self) -> bool:
        """Whether the loss is the sum of the law's terms and nothing else."""
        return not self._other_form

    @property
    def _other_form(self) -> bool:
        """Whether the subclass states its log loss itself."""
        return type(self).log_loss_and_jacobian is not Law.log_loss_and_jacobian

    def log_loss_and_jacobian(self, theta: Array, x: Variables) -> tuple[Array, Array]:
        """Return the log loss (batch, runs) and its Jacobian by theta (batch, parameters, runs)."""
        total, terms, shares = self._sum(theta, x)
        jacobian = np.zeros((len(theta), len(self.parameters), total.shape[1]))
        for term, share in zip(terms, shares, strict=True):
            for j, derivative in term.gradient.items():
                jacobian[:, j] += share * derivative
        return total, jacobian

    def _sum(self, theta: Array, x: Variables) -> tuple[Array, Sequence[Term], list[Array]]:
        """Logsumexp of the terms (batch, runs), the terms, and the share of each in the loss."""
        terms = self.terms([theta[:, j : j + 1] for j in range(theta.shape[1])], x)
        runs = len(next(iter(x.values())))
        values = [np.broadcast_to(term.value, (len(theta), runs)) for term in terms]
        largest = np.maximum.reduce(values)
        shares = [np.exp(value - largest) for value in values]
        total = np.add.reduce(shares)
        return largest + np.log(total), terms, [share / total for share in shares]

    def predict(self, natural: Mapping[str, float], x: Variables) -> Array:
        """Return the loss (runs,) of one set of natural coefficients."""
        loss: Array = np.exp(self.log_loss(self.internal(natural), x)[0])
        return loss
