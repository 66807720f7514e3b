"""Our policy as an Optuna sampler, for those who drive ``study.optimize`` themselves.

    study = optuna.create_study(sampler=PolicySampler(problem))

    def objective(optuna_trial):
        trial = proposed(optuna_trial, problem)  # design, scale, seed, horizons
        runs = train(trial)                      # list[Run]: every horizon is an observation
        record(optuna_trial, runs)
        return runs[-1].bpb

    study.optimize(objective, n_trials=50)

The declared space is static: Optuna's intersection over completed trials loses every parameter whose range changed,
and a parameter that the space does not declare is an error, where Optuna would draw it at random. There is neither
lease nor resume here: campaigns use :mod:`moe_search.search.worker`.
"""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from moe_search.search import parameters
from moe_search.search.problem import Problem
from moe_search.search.suggest import suggest
from moe_search.search.trial import Row, Trial
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.run import Run


class PolicySampler(BaseSampler):
    """Proposes with :func:`moe_search.search.suggest.suggest`.

    Args:
        problem: what is searched, and for how much: asking for more than its budget pays for raises InvalidInputError.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._distributions = parameters.distributions(problem)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the declared space, whatever the trials so far."""
        del study, trial
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose, and keep the exact trial in a user attribute."""
        del search_space
        rows = [row for other in study.get_trials(deepcopy=False) if (row := _row(other)) is not None]
        done = [row for row in rows if not row.is_open]
        proposals = suggest(self._problem, done, [row for row in rows if row.is_open])
        if not proposals:
            raise InvalidInputError(
                f"the budget of {self._problem.budget_flops:.3g} FLOPs is spent after {len(rows)} trials",
                where="n_trials",
                allowed=f"at most {len(rows)}",
                fix="raise the problem's budget_flops",
            )
        exact = self._problem.trial(trial.number, proposals[0]).model_dump_json()
        study._storage.set_trial_user_attr(trial._trial_id, "trial", exact)
        return parameters.values(proposals[0], self._problem)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse: a parameter outside of the declared space would be drawn without any model."""
        del study, trial
        declared = self._distributions.get(param_name)
        raise InvalidInputError(
            f"the objective asks for {param_name!r} as {param_distribution}",
            where="objective",
            allowed=f"{declared}" if declared else ", ".join(self._distributions),
            fix="take the design from proposed(optuna_trial, problem)",
        )

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Insist on the runs: a bare value does not say at which horizons what was observed."""
        del study, values
        if state == TrialState.COMPLETE and "trial" in trial.user_attrs and "runs" not in trial.user_attrs:
            raise InvalidInputError(
                f"trial {trial.number} returned a value but recorded no runs",
                where="objective",
                fix="call record(optuna_trial, runs) before returning",
            )


def proposed(optuna_trial: optuna.Trial, problem: Problem) -> Trial:
    """Return what to train in this trial, and set its parameters for Optuna's dashboard."""
    for name, distribution in parameters.distributions(problem).items():
        match distribution:
            case FloatDistribution():
                optuna_trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
            case IntDistribution():
                optuna_trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
            case CategoricalDistribution():
                optuna_trial.suggest_categorical(name, distribution.choices)
    frozen = optuna_trial.study.get_trials(deepcopy=False)[optuna_trial.number]  # a trial's own attributes are a copy
    return Trial.model_validate_json(frozen.user_attrs["trial"])


def record(optuna_trial: optuna.Trial, runs: Sequence[Run]) -> None:
    """Keep the runs of a trial, which later proposals learn from."""
    optuna_trial.set_user_attr("runs", [run.model_dump(mode="json") for run in runs])


def _row(frozen: FrozenTrial) -> Row | None:
    if "trial" not in frozen.user_attrs:
        return None
    trial = Trial.model_validate_json(frozen.user_attrs["trial"])
    runs = tuple(Run.model_validate(run) for run in frozen.user_attrs.get("runs", ()))
    if runs and frozen.state.is_finished():
        return Row(trial=trial, state="finished", runs=runs)
    return Row(trial=trial, state="failed" if frozen.state.is_finished() else "running")
