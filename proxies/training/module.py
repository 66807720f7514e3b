"""One trunk or branch as a LightningModule: a step is forward, backward, clip, update, balance.

Optimisation is manual in Lightning's sense, because a step may be several micro-batches whose routing statistics belong
together (a load balanced over the whole batch), and because the rate is a function of the step rather than a state.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from moe_search.proxies.model import DecoderLM
from moe_search.proxies.stream import Batch
from moe_search.proxies.training.checkpoint import restore_optimizer
from moe_search.proxies.training.lean_lightning import pl
from moe_search.proxies.training.optimizer import build_optimizer
from moe_search.proxies.training.recipe import TrainingRecipe


class ProxyModule(pl.LightningModule):
    """Trains ``model`` over some consecutive steps.

    Args:
        model: its weights and buffers are those after ``first_step`` steps.
        recipe: optimiser and micro-batch.
        learning_rate: peak rate at the reference width.
        rate: learning rate of a step over its peak.
        seed: of the random numbers that a model may draw while training; they restart at every step, so that a resumed
            run draws the same.
        first_step: steps done before, counted from the start of the trunk.
        optimizer_tensors: the optimiser's state after ``first_step`` steps; None: it is new.
        at_end: called when the last step is done, while the model is still on its device and in the precision of
            training.
    """

    def __init__(
        self,
        model: DecoderLM,
        *,
        recipe: TrainingRecipe,
        learning_rate: float,
        rate: Callable[[int], float],
        seed: int,
        first_step: int,
        optimizer_tensors: Mapping[str, Tensor] | None,
        at_end: Callable[[DecoderLM], None] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.measure = torch.compile(model.loss, dynamic=False) if recipe.compile else model.loss
        self.recipe = recipe
        self.learning_rate = learning_rate
        self.rate = rate
        self.seed = seed
        self.first_step = first_step
        self.optimizer_tensors = optimizer_tensors
        self.at_end = at_end
        self.learning: list[nn.Parameter] = []
        """What the optimiser changes: looking for it in the model takes longer than clipping it."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW where an earlier fit left it."""
        optimizer = build_optimizer(self.model, self.recipe, self.learning_rate)
        self.learning = list(self.model.parameters())
        if self.optimizer_tensors is not None:
            restore_optimizer(optimizer, self.optimizer_tensors)
            self.optimizer_tensors = None
        return optimizer

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Make one optimiser step on ``batch.tokens`` (B, seq_len + 1) and return its loss, nats a token.

        Every process of a distributed strategy is given the whole batch and takes its own sequences, equally many.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer), "configure_optimizers returns one optimiser"
        step = self.first_step + batch_index
        self._restart_random_numbers(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.rate(step)

        optimizer.zero_grad()
        losses = []
        own = batch.tokens[self.trainer.global_rank :: self.trainer.world_size]
        for tokens in torch.split(own, self._micro_batch_sequences(own)):
            share = len(tokens) / len(own)
            output = self.measure(tokens)
            self.manual_backward(share * (output.loss + output.auxiliary_loss))
            losses.append(share * output.loss.detach())
        torch.nn.utils.clip_grad_norm_(self.learning, self.recipe.gradient_clip)
        optimizer.step()
        self.model.end_step()
        return sum(losses[1:], start=losses[0])

    def on_train_end(self) -> None:
        """Measure the model before Lightning takes it off its device."""
        if self.at_end is not None:
            self.model.eval()
            try:
                with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                    self.at_end(self.model)
            finally:
                self.model.train()

    def _restart_random_numbers(self, step: int) -> None:
        """Seed the generators of this process as ``torch.manual_seed`` does, which also keeps a list of its callers."""
        seed = self.seed << 32 ^ step
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _micro_batch_sequences(self, tokens: Tensor) -> int:
        """Return the sequences of one forward pass."""
        if self.recipe.micro_batch_tokens is None:
            return len(tokens)
        return max(1, self.recipe.micro_batch_tokens // (tokens.shape[1] - 1))
