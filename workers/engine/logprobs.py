"""Log-probabilities of a drawn token and of its likeliest alternatives."""

import torch

from workers.request import TokenLogprobs


def token_logprobs(row: torch.Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Those of one row of the model's own logits, float32 [vocab]; `num_top` alternatives, or as many as there are."""
    logprobs = row.double().log_softmax(-1)
    top = logprobs.topk(min(num_top, len(row)))
    own = logprobs[token_id]
    return TokenLogprobs(
        logprob=float(own),
        rank=int((logprobs > own).sum()) + 1,
        top=tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
    )
