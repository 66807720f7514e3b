"""The k largest logits, then a softmax over them alone (Mixtral, arXiv 2401.04088; gpt-oss)."""

from torch import Tensor

from moe_search.proxies.model.routers import Router
from moe_search.proxies.model.routing import Assignment, TokenContext


class TopKSoftmax(Router):
    """Gates are ``softmax`` of the selected logits: they always sum to one, whatever ``normalise_gates`` says.

    Equal to ``softmax_topk`` with normalised gates (a softmax restricted to a subset is the softmax of the subset);
    they differ where the other leaves its gates as they are. The softmax of a single logit is constant and would teach
    the router nothing, so with ``top_k`` 1 the gate is the probability among all experts, which is also what the
    auxiliary loss sees.
    """

    def forward(self, x: Tensor, context: TokenContext, selection_bias: Tensor | None = None) -> Assignment:
        """Assign the tokens ``x`` (tokens, d_model) to experts."""
        logits = self.logits(x)
        scores = logits.softmax(dim=-1)
        experts = self.select(scores, selection_bias)
        gates = logits.gather(-1, experts).softmax(dim=-1) if self.top_k > 1 else scores.gather(-1, experts)
        return Assignment(experts, gates, scores, logits.logsumexp(dim=-1))
