"""What a proxy's training comes to before a step is made, and the run that each of its horizons becomes."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch

from moe_search.proxies.corpus import Corpus
from moe_search.proxies.stream import MixtureStream
from moe_search.proxies.training.evaluation import Evaluation, unigram_bound
from moe_search.proxies.training.provenance import code_version, device_name
from moe_search.proxies.training.recipe import Float32Matmul, TrainingRecipe, batch_tokens, learning_rate
from moe_search.proxies.training.schedule import Horizon, plan_horizons
from moe_search.spaces.accounting import train_flops
from moe_search.spaces.design import Scale
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen
from moe_search.spaces.resolve import Resolved, run_dimensions
from moe_search.spaces.run import Run, RunStatus, run_key


class Failure(Frozen):
    """Why a trunk or branch ended early."""

    status: RunStatus
    message: str
    steps: int
    """Steps made, counted from the start of the trunk."""


@dataclass(frozen=True)
class Measured:
    """What a finished branch has to show."""

    evaluation: Evaluation
    train_loss: float
    """Nats a token over the last steps."""
    training_seconds: float
    """Trunk and branch, without set-up."""
    evaluation_seconds: float


@dataclass(frozen=True)
class ProxyPlan:
    """The arguments of ``train_proxy`` and what follows from them.

    Raises:
        InvalidInputError: the model's vocabulary is not the corpus's.
    """

    resolved: Resolved
    wanted_horizons: tuple[int, ...]
    corpus: Corpus
    recipe: TrainingRecipe
    seed: int
    context: str
    trial: int | None
    device: torch.device
    float32_matmul: Float32Matmul = "exact"

    def __post_init__(self) -> None:
        vocab_size = self.resolved.architecture.vocab_size
        if vocab_size != self.corpus.vocab_size:
            raise InvalidInputError(
                f"the model's vocabulary has {vocab_size} tokens, the corpus's {self.corpus.vocab_size}",
                where="vocab_size",
                fix=f"vocab_size = {self.corpus.vocab_size}",
            )

    @cached_property
    def batch_tokens(self) -> int:
        """Tokens of one optimiser step."""
        return batch_tokens(
            self.recipe,
            n_active=self.resolved.realised.n_active_non_embedding,
            seq_len=self.resolved.architecture.seq_len,
        )

    @cached_property
    def learning_rate(self) -> float:
        """Peak learning rate at the reference width."""
        realised = self.resolved.realised
        return learning_rate(
            self.recipe,
            n_active=realised.n_active_non_embedding,
            n_experts=realised.n_experts,
            batch=self.batch_tokens,
        )

    @cached_property
    def horizons(self) -> tuple[Horizon, ...]:
        """The horizons in steps, shortest first."""
        return plan_horizons(
            self.wanted_horizons,
            batch_tokens=self.batch_tokens,
            decay_share=self.recipe.decay_share,
            warmup_steps=self.recipe.warmup_steps,
        )

    @cached_property
    def stream(self) -> MixtureStream:
        """Where the batches come from."""
        seq_len = self.resolved.architecture.seq_len
        return MixtureStream(
            self.corpus,
            self.resolved.design.mixture,
            batch_sequences=self.batch_tokens // seq_len,
            seq_len=seq_len,
            seed=self.seed,
        )

    @cached_property
    def train_bound(self) -> float:
        """Unigram loss of the training mixture, nats a token."""
        return sum(
            weight * self.corpus.unigram_loss(domain, self.recipe.evaluation_split)
            for domain, weight in self.resolved.design.mixture.items()
            if weight > 0
        )

    @cached_property
    def identity(self) -> str:
        """Hash of everything that a checkpoint depends on."""
        parts = [
            self.resolved.model_dump_json(),
            [horizon.wanted_tokens for horizon in self.horizons],
            self.corpus.data_hash,
            self.recipe.fingerprint(),
            self.seed,
            self.context,
        ]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    @property
    def total_steps(self) -> int:
        """Steps of the trunk and of all branches."""
        return self.horizons[-1].branch_step + sum(horizon.decay_steps for horizon in self.horizons)

    def finished_run(self, horizon: Horizon, measured: Measured) -> Run:
        """Return the run of a horizon whose branch came to its end."""
        evaluation = measured.evaluation
        return self._run(
            horizon,
            status="finished",
            own_steps_end=horizon.steps,
            results={
                "loss": evaluation.loss,
                "bpb": evaluation.bpb,
                "domain_loss": evaluation.domain_loss,
                "domain_bpb": evaluation.domain_bpb,
                "train_loss": measured.train_loss,
                "unigram_loss": unigram_bound(self.corpus, self.recipe.evaluation_split),
                "load_imbalance": evaluation.load_imbalance,
                "router_entropy": evaluation.router_entropy,
                "expert_load": evaluation.expert_load,
                "wall_seconds": measured.training_seconds + measured.evaluation_seconds,
                "tokens_per_second": horizon.steps * self.batch_tokens / measured.training_seconds,
            },
        )

    def failed_run(self, horizon: Horizon, failure: Failure) -> Run:
        """Return the run of a horizon that training did not reach."""
        return self._run(
            horizon, status=failure.status, own_steps_end=failure.steps, results={"message": failure.message}
        )

    def _run(self, horizon: Horizon, *, status: RunStatus, own_steps_end: int, results: dict[str, object]) -> Run:
        """Return a run that paid for the steps up to ``own_steps_end`` that no other horizon pays for.

        The trunk is the longest horizon's; the others pay for their branch.
        """
        architecture, tokens = self.resolved.architecture, horizon.steps * self.batch_tokens
        own_steps_begin = 0 if horizon == self.horizons[-1] else horizon.branch_step
        own_tokens = max(own_steps_end - own_steps_begin, 0) * self.batch_tokens
        scale = Scale(n_active=self.resolved.scale.n_active, tokens=horizon.wanted_tokens)
        return Run.model_validate(
            {
                **run_dimensions(self.resolved),
                "run_key": run_key(self.resolved.design, scale, self.seed, self.context),
                "trial": self.trial,
                "status": status,
                "seed": self.seed,
                "tokens": tokens,
                "batch_tokens": self.batch_tokens,
                "learning_rate": self.learning_rate,
                "mixture": self.resolved.design.mixture,
                "epochs": self.stream.epochs(tokens),
                "train_flops": train_flops(architecture, tokens),
                "paid_flops": train_flops(architecture, own_tokens),
                "device": device_name(self.device, self.recipe.threads, self.float32_matmul),
                "data_hash": self.corpus.data_hash,
                "tokenizer_hash": self.corpus.tokenizer_hash,
                "code_version": code_version(),
                **results,
            }
        )
