"""Our joint law: size, experts, tokens, granularity, repetition, shape and mixture, nested and held by weak priors.

    L = (E + A n^-alpha X^(delta + zeta ln n) Q(G) exp(rho ln²(S/64)) + B d^-beta X^(omega + eta ln d)) M(w)

    n = N / 1e6, d = D' / 1e8            D' the worth of D tokens of which U differ (law muennighoff, R_D)
    X = Eh(E - 1; E_start, E_most) / E_start    saturating expansion; 1 for a dense model
    E_most = E_max (D / 100 N)^mu        experts beyond which more do not help
    Q(G) = (1 + kappa (1 - G^-gamma) / gamma) G^(lambda ln G)    granularity; 1 at G = 1
    S = d_model / n_layers               shape, 64 in the laws below
    M(w) = (sum_i s_i w_i^g / sum_i s_i)^-b, s_i = K_i^(-1/b)    mixture (scaling/mixing.py); 1 for the uniform one

Every factor is 1 for a dense model of the reference shape on fresh tokens and a uniform mixture: the law is
``chinchilla`` there. Other laws are special cases:

* ``gadre``: alpha = beta.
* ``joint_moe``: mu = rho = 0.
* ``clark``: E = B = 0, mu = rho = 0 (zeta is its interaction; no irreducible loss).
* ``fine_grained``: lambda = rho = 0 at one expansion, whose experts scale A.
* ``muennighoff`` without its excess parameters (R_N large), which would change the law below 20 tokens a parameter
  even where nothing is repeated.
* ``mixture`` at one size and one number of tokens, and with it ``data_mixing`` without its floor (g = 1, large b).
* ``bimix``: one domain has all the worth; steps are tokens.

What no published law has, and why it is here. *mu*: each expert sees a share of the tokens, so that more experts can be
trained where there are more tokens for each active parameter; at mu = 1 it is total parameters that tokens limit. With
mu = 0 laws fitted to small models promise too much of many experts in larger ones. *rho*: at one number of parameters
a model twice as wide for its depth is worse by about 0.5 %, which between the sizes of a ladder looks like a bend
of the power law. Both, and the widths of the priors on zeta and omega, were chosen by predicting 132M and 368M from
smaller models in the runs of Clark et al. 2022. *M*: domains with diminishing returns (law ``mixture``).

Priors are weak and part of every fit, because a campaign has 30 to 150 small runs: what the data do not say, the prior
says, with its full width in every interval, and the fit withholds the value. E, alpha and beta have the mean and the
spread of the published laws with an irreducible loss (Hoffmann, Besiroglu, Muennighoff, Ludziejewski, Krajewski);
E_start, E_max, kappa, gamma and R_D those of their papers; lambda puts the optimum of G where ``efficiency_leverage``
has it; rho follows from Kaplan et al. 2020 (48 layers of 1600 against 6 of 4288: 3 % of the loss); b and g are those
of the domains' losses in the runs of RegMix and of Ye et al. The reference sizes are constants, chosen among proxies:
there amplitudes are losses one can imagine, and a prior on them means something.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.special import expit

from moe_search.scaling.columns import domain_names, mixture_weights, optional, positive, relative_weights
from moe_search.scaling.law import Array, Law, Parameter, Term, Variables, amplitude, coefficient, exponent
from moe_search.scaling.mixing import mixing
from moe_search.scaling.repetition import unique_tokens, worth
from moe_search.scaling.saturation import saturate

N0, D0, S0 = 1e6, 1e8, 64.0
"""Reference active parameters without embeddings, tokens, and d_model / n_layers."""
WIDTH = ("d_model", "hidden_size", "n_embd")
DEPTH = ("n_layers", "num_hidden_layers", "num_layers", "num_blocks", "n_layer")
"""Names of d_model and n_layers, ours first; without them the law is misled where shapes change with size."""
MIXTURE = 17
"""Place of the first parameter of M."""
LEAST_FACTOR = 0.05
"""Of granularity: far outside the runs the first-order effect may not turn the parameter term negative."""
LEAST_ROOM = 1.0
"""ln of E_most / E_start, at least: a dense model never lies beyond saturation."""
SMOOTH = 0.1
"""Width of the bend there, in ln E_most: at a corner an optimiser stops short of the optimum."""


def _positive(name: str, meaning: str, span: tuple[float, float], prior: tuple[float, float], *of: str) -> Parameter:
    lower, upper = span
    center, spread = prior
    return Parameter(
        name=name,
        meaning=meaning,
        transform="log",
        lower=lower,
        upper=upper,
        center=center,
        spread=spread,
        variables=of,
    )


class Joint(Law):
    """Few parameters for few runs; published laws are special cases."""

    name = "joint"
    equation = (
        "L = (E + A n^-alpha X^(delta + zeta ln n) (1 + kappa (1 - G^-gamma)/gamma) G^(lambda ln G) exp(rho ln²(S/64)) "
        "+ B d^-beta X^(omega + eta ln d)) M, n = N/1e6, d = D'/1e8, X = Eh/E_start saturating at "
        "E_max (D/(100 N))^mu, D' = U (1 + R_D (1 - exp((1 - D/U)/R_D))), M = (sum_i s_i w_i^g/sum_i s_i)^-b, "
        "s_i = K_i^(-1/b)"
    )
    source = (
        "this project; parts and priors from Kaplan et al. 2020, Clark et al. 2022, Besiroglu et al. 2024, Muennighoff "
        "et al. 2023, Krajewski et al. 2024, Ye et al. 2024, Liu et al. 2024, Ludziejewski et al. 2025, Tian et al. "
        "2025"
    )
    convention = (
        "N: active parameters without embeddings (n_active where a table has no other); D: tokens; X: expansion; "
        "G: granularity against an FFN of (8/3) d_model; U: unique tokens (unique_tokens, else from epochs, else D); "
        "S: d_model / n_layers, also under usual names of others (64 where a table has no shapes); "
        "w: mixture weights over the uniform weight"
    )
    regularised = True
    _beside_the_mixture = (
        amplitude("E", "irreducible loss", 0.48, spread=0.5, unit="bits/byte"),
        amplitude("A", "loss from finite parameters at N = 1e6", 1.0, "N", spread=1.0, unit="bits/byte"),
        amplitude("B", "loss from finite tokens at D = 1e8", 0.6, "D", spread=1.0, unit="bits/byte"),
        exponent("alpha", "exponent of active parameters", 0.25, "N", spread=0.1),
        exponent("beta", "exponent of tokens", 0.25, "D", spread=0.1),
        coefficient("delta", "effect of ln expansion on the parameter term at N = 1e6", -0.06, "X", spread=0.08),
        coefficient("zeta", "change of delta with ln N", 0.0, "X", "N", spread=0.005),
        coefficient("omega", "effect of ln expansion on the token term at D = 1e8", 0.0, "X", spread=0.03),
        coefficient("eta", "change of omega with ln D", 0.0, "X", "D", spread=0.003),
        _positive("E_start", "experts that a dense model amounts to", (1.0, 20.0), (2.07, 0.5), "X"),
        _positive("E_max", "experts beyond which more do not help, at D = 100 N", (25.0, 1e6), (290.0, 1.0), "X"),
        coefficient("mu", "growth of E_max with tokens for each active parameter", 1.0, "X", "N", spread=0.3),
        coefficient("kappa", "slope in ln granularity at G = 1", -0.06, "G", spread=0.06, lower=-0.2, upper=0.2),
        coefficient("gamma", "exponent of granularity", 0.58, "G", spread=0.3, lower=0.1, upper=2.5),
        coefficient("lambda", "curvature in ln granularity", 0.0025, "G", spread=0.005),
        coefficient("rho", "loss of shapes away from d_model = 64 n_layers", 0.025, "S", spread=0.0125),
        _positive("R_D", "how many repetitions of a token are worth having", (0.05, 1e4), (15.39, 0.7), "R"),
    )
    _of_the_mixture = (
        _positive("b", "exponent of the mixture's worth", (1e-3, 50.0), (0.14, 0.7), "w"),
        coefficient(
            "g", "exponent of a domain's weight, 1 without diminishing returns", 0.65, "w", spread=0.1, lower=0.05
        ),
    )

    def __init__(self, domains: Sequence[str] = ()) -> None:
        self.domains = tuple(domains)
        self.parameters = (
            *self._beside_the_mixture,
            *self._of_the_mixture,
            *(
                _positive(
                    f"K/{domain}",
                    f"loss of training on it alone, over that on {domains[0]}",
                    (0.01, 100),
                    (1.0, 0.3),
                    "w",
                )
                for domain in self.domains[1:]
            ),
        )

    def for_domains(self, domains: Sequence[str]) -> Law:
        """Return the law with a K for each domain; for one domain, which has none to be compared with, as it is."""
        return Joint(domains) if len(domains) > 1 else Joint()

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return N, D, X, G (runs,), w (runs, domains), and the repetition R = D/U and the shape S (runs, 1).

        R and S are columns of a matrix, as w is, because no power of them enters: that they move together with tokens
        or with size, as they do on a ladder, does not make their effects one.
        """
        tokens = positive(frame, "tokens", law=self.name)
        shape = np.full(frame.height, S0)
        if set(WIDTH) & set(frame.columns) and set(DEPTH) & set(frame.columns):
            shape = positive(frame, *WIDTH, law=self.name) / positive(frame, *DEPTH, law=self.name)
        return {
            "N": positive(frame, "n_active_non_embedding", "n_active", "n_total", law=self.name),
            "D": tokens,
            "X": optional(frame, "expansion", default=1.0, law=self.name),
            "G": optional(frame, "granularity", default=1.0, law=self.name),
            "R": (tokens / unique_tokens(frame, law=self.name))[:, None],
            "S": shape[:, None],
            "w": self._weights(frame),
        }

    def _weights(self, frame: pl.DataFrame) -> Array:
        """Weights over the uniform one (runs, domains); a table without mixtures is of the uniform one."""
        if not self.domains:
            return relative_weights(frame)
        if not domain_names(frame):
            return np.ones((frame.height, len(self.domains)))
        return mixture_weights(frame, self.domains) * len(self.domains)

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return the floor, the parameter term and the token term, which the mixture multiplies."""
        e, a, b, alpha, beta, delta, zeta, omega, eta, start, most, mu, kappa, gamma, curvature, rho, lasting = theta[
            :MIXTURE
        ]
        n = np.log(x["N"] / N0)
        fresh, by_lasting = worth(x["D"], x["D"] / x["R"][:, 0], np.exp(lasting))
        d = fresh - np.log(D0)
        grain, by_kappa, by_gamma = _granularity(np.log(x["G"]), kappa, gamma)
        square = np.log(x["G"]) ** 2
        shape = np.log(x["S"][:, 0] / S0) ** 2
        s, by_start, by_most, by_mu = _expansion(x, start, most, mu)
        on_n, on_d = delta + zeta * n, omega + eta * d  # derivatives of the terms by ln X
        return (
            Term(e, {0: 1.0}),
            Term(
                a - alpha * n + on_n * s + grain + curvature * square + rho * shape,
                {
                    1: 1.0,
                    3: -n,
                    5: s,
                    6: n * s,
                    9: on_n * by_start,
                    10: on_n * by_most,
                    11: on_n * by_mu,
                    12: by_kappa,
                    13: by_gamma,
                    14: square,
                    15: shape,
                },
            ),
            Term(
                b - beta * d + on_d * s,
                {
                    2: 1.0,
                    4: -d,
                    7: s,
                    8: d * s,
                    9: on_d * by_start,
                    10: on_d * by_most,
                    11: on_d * by_mu,
                    16: (eta * s - beta) * by_lasting,
                },
            ),
        )

    def log_loss_and_jacobian(self, theta: Array, x: Variables) -> tuple[Array, Array]:
        """Return the log loss of the terms plus that of the mixture, and the Jacobian."""
        value, jacobian = super().log_loss_and_jacobian(theta, x)
        if np.all(x["w"] == 1):
            return value, jacobian
        mixture, slopes = _mixing(theta, x)
        for j, slope in enumerate(slopes, start=MIXTURE):
            jacobian[:, j] = slope
        return value + mixture, jacobian

    def log_loss(self, theta: Array, x: Variables) -> Array:
        """Return the log loss (batch, runs), which costs less than with the Jacobian."""
        value = self._sum(theta, x)[0]
        return value if np.all(x["w"] == 1) else value + _mixing(theta, x)[0]


def _mixing(theta: Array, x: Variables) -> tuple[Array, list[Array]]:
    """Return ln M and its derivatives by the parameters from ``MIXTURE`` on; without domains all K_i are alike."""
    log_b, g, *log_k = (theta[:, j : j + 1] for j in range(MIXTURE, theta.shape[1]))
    known = log_k or [np.zeros_like(g)] * (x["w"].shape[1] - 1)
    mixture, (by_b, by_g, _, *by_k) = mixing(x["w"], log_b, g, np.concatenate([np.zeros_like(g), *known], axis=1))
    return mixture, [by_b, by_g, *(by_k if log_k else [])]


def _expansion(x: Variables, start: Array, most: Array, mu: Array) -> tuple[Array, Array, Array, Array]:
    """Return ln X and its derivatives by ln E_start, ln E_max and mu, each (batch, runs)."""
    if np.all(x["X"] == 1):
        nothing = np.zeros((1, 1))
        return nothing, nothing, nothing, nothing
    tokens = np.log(x["D"] / x["N"]) - np.log(D0 / N0)
    room = (most + mu * tokens - start - LEAST_ROOM) / SMOOTH
    limit = start + LEAST_ROOM + SMOOTH * np.logaddexp(0, room)
    open_ = expit(room)
    saturated, by_start, by_limit = saturate(np.maximum(x["X"] - 1, 0), np.exp(start), np.exp(limit))
    by_most = by_limit * open_
    return saturated - start, by_start - 1 + by_limit - by_most, by_most, by_most * tokens


def _granularity(g: Array, kappa: Array, gamma: Array) -> tuple[Array, Array, Array]:
    """Return ln(1 + kappa (1 - G^-gamma) / gamma) and its derivatives by kappa and gamma, each (batch, runs)."""
    left = np.exp(-gamma * g)
    gain = (1 - left) / gamma
    factor = 1 + kappa * gain
    free = factor > LEAST_FACTOR
    factor = np.where(free, factor, LEAST_FACTOR)
    return np.log(factor), free * gain / factor, free * kappa * (left * g - gain) / gamma / factor


LAW = Joint()
