"""``campaign.yaml``: everything that decides what a campaign does, in one validated value.

Each block is the configuration class of the package that uses it; this file adds only what belongs to the application.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, PositiveInt, ValidationInfo, create_model, field_validator, model_validator

from moe_search.experiments.spec.environment import check_references
from moe_search.experiments.spec.full_scale import FULL_SCALE
from moe_search.proxies.corpus.config import CorpusConfig
from moe_search.proxies.training.recipe import TrainingRecipe
from moe_search.scaling.laws import law_names
from moe_search.scaling.recommend import Target
from moe_search.search.launchers import launcher_names, options_class
from moe_search.search.policy import Policy
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.ladder import Ladder
from moe_search.spaces.mixture import Mixture
from moe_search.spaces.rules import ShapeRules
from moe_search.spaces.space import SearchSpace

DEFAULT_LAWS = ("joint", "joint_moe", "chinchilla", "fine_grained", "efficiency_leverage")


class Budget(Frozen):
    """What the proxies may cost together."""

    train_flops: float = Field(gt=0)
    """Forward and backward FLOPs of all proxies: the unit in which the search is planned, the same on every machine."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Wall-clock limit of one ``moe-search run``; it stops with exit code 3 and the same command continues."""


class WorkersOfAnyLauncher(Frozen):
    """Processes that train proxies."""

    count: int = Field(default=2, ge=0)
    """How many ``run`` starts. 0: all are started elsewhere, and ``run`` waits, projects and concludes."""
    threads: PositiveInt = 1
    """CPU threads each, of the training loop too. Two one-thread workers beat one two-thread worker on two cores."""
    in_flight: PositiveInt = 4
    """Trials that can be in training at once, on all machines: each proposal waits for all results but the latest
    ``in_flight - 1``. Fixed when the campaign is started, so that the trials do not depend on who joins."""
    launcher: str = "local"
    """What starts the workers, and watches them: a file of ``search/launchers``."""
    grace_seconds: float = Field(default=30.0, gt=0, le=3600)
    """From SIGTERM, Ctrl-C or a preemption until a worker has given its proxy back, saved; then it ends anyway."""

    @field_validator("launcher")
    @classmethod
    def _known_launcher(cls, launcher: str) -> str:
        options_class(launcher)
        return launcher

    @property
    def options(self) -> Frozen:
        """The block of the launcher that is used."""
        options: Frozen = getattr(self, self.launcher)
        return options


if TYPE_CHECKING:
    Workers = WorkersOfAnyLauncher
else:
    Workers = create_model(
        "Workers",
        __base__=WorkersOfAnyLauncher,
        __doc__="Processes that train proxies, with a block of options for each launcher, under its name.",
        **{name: (options_class(name), options_class(name)()) for name in launcher_names()},
    )


class Objective(Frozen):
    """What is minimised: the weighted mean over domains of bits per byte on held-out text."""

    weights: Mixture | None = None
    """Weight of each domain, summing to 1; None: all domains alike."""


class Tracking(Frozen):
    """Where MLflow keeps its runs."""

    enabled: bool = True
    uri: str | None = None
    """None: a SQLite file in the campaign's folder. ``${MOE_SEARCH_...}`` stands for a variable of the
    environment."""

    @field_validator("uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        check_references(uri or "", example="MOE_SEARCH_MLFLOW_PASSWORD")
        return uri


class Spec(Frozen):
    """One campaign."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the MLflow experiment and of the study."""
    folder: Path
    """Where results go. A relative path starts at the directory the command is started in."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    corpus: CorpusConfig = CorpusConfig()
    space: SearchSpace
    ladder: Ladder
    shape: ShapeRules = Field(default=ShapeRules(), validate_default=True)
    training: TrainingRecipe = TrainingRecipe()
    budget: Budget
    search: Policy = Policy()
    workers: Workers = Workers()
    storage: str | None = None
    """Optuna storage URL, such as postgresql+psycopg://host/name; None: a journal file in the folder.
    ``${MOE_SEARCH_...}`` stands for a variable of the environment."""
    objective: Objective = Objective()
    target: Target
    target_shape: ShapeRules | None = None
    """Shape rules of the full-scale recommendation; what is left out is as for large models (``FULL_SCALE``)."""
    laws: tuple[str, ...] = DEFAULT_LAWS
    """Scaling laws that are fitted and compared; the best on the held-out largest scale is used."""
    tracking: Tracking = Tracking()

    @field_validator("shape", mode="before")
    @classmethod
    def _vocabulary(cls, shape: object, info: ValidationInfo) -> object:
        """The corpus decides the vocabulary; nobody has to say it twice."""
        corpus = info.data.get("corpus")
        if isinstance(shape, ShapeRules):
            shape = shape.model_dump(exclude_unset=True)
        if isinstance(shape, dict) and isinstance(corpus, CorpusConfig):
            return {"vocab_size": corpus.vocab_size, **shape}
        return shape

    @field_validator("target_shape", mode="before")
    @classmethod
    def _full_scale(cls, shape: object) -> object:
        return {**FULL_SCALE.model_dump(), **shape} if isinstance(shape, dict) else shape

    @field_validator("storage")
    @classmethod
    def _known_storage(cls, storage: str | None) -> str | None:
        scheme = storage.partition("://")[0] if storage and "://" in storage else "sqlite"
        if scheme.partition("+")[0] not in {"sqlite", "postgresql"}:
            raise InvalidInputError(
                f"{scheme} is no storage for a campaign",
                allowed="a path, sqlite:///FILE, or postgresql+psycopg://USER:${MOE_SEARCH_DB_PASSWORD}@HOST/DATABASE",
                fix="leave storage out: a journal file in the folder",
            )
        check_references(storage or "", example="MOE_SEARCH_DB_PASSWORD")
        return storage

    @field_validator("laws")
    @classmethod
    def _some_law(cls, laws: tuple[str, ...]) -> tuple[str, ...]:
        for name in laws:
            if name not in law_names():
                raise InvalidInputError(
                    f"there is no law {name!r}",
                    allowed=", ".join(law_names()),
                    fix=get_close_matches(name, law_names(), n=1, cutoff=0.0)[0],
                )
        return laws

    @model_validator(mode="after")
    def _one_vocabulary(self) -> Self:
        if self.shape.vocab_size != self.corpus.vocab_size:
            raise InvalidInputError(
                f"the models have {self.shape.vocab_size} tokens but the corpus has {self.corpus.vocab_size}",
                where="shape.vocab_size",
                allowed=str(self.corpus.vocab_size),
                fix="leave shape.vocab_size out",
            )
        return self

    @model_validator(mode="after")
    def _one_thread_count(self) -> Self:
        if self.training.threads not in {1, self.workers.threads}:  # 1 is what the resolved copy writes
            raise InvalidInputError(
                f"training.threads is {self.training.threads} but workers have {self.workers.threads}",
                where="training.threads",
                fix=f"leave it out and set workers.threads = {self.training.threads}",
            )
        return self

    @model_validator(mode="after")
    def _known_domains(self) -> Self:
        known = self.corpus.domains or (tuple(self.corpus.source) if isinstance(self.corpus.source, dict) else ())
        for where, domains in (("space.mixture", self.space.domains), ("objective.weights", self._weighted_domains)):
            unknown = [domain for domain in domains if known and domain not in known]
            if unknown:
                raise InvalidInputError(
                    f"the corpus has no domain {unknown[0]!r}", where=where, allowed=", ".join(known)
                )
        return self

    @property
    def _weighted_domains(self) -> tuple[str, ...]:
        return self.objective.weights.domains if self.objective.weights else ()
