"""Next tokens of a whole batch from its logits, on the device that made them: the contract, and it in torch.

Every draw is a function of one row of logits, its parameters, its seed and its position; nothing waits for the host.
`kernels.triton_ops.sampling` does the same in one launch.
"""

from typing import NamedTuple

import torch

GOLDEN = 0x9E3779B97F4A7C15
COUNTER_STEP = 0xD1B54A32D192ED03
START = 0x632BE59BD9B4E019
FIRST_MIX = 0xBF58476D1CE4E5B9
SECOND_MIX = 0x94D049BB133111EB


class SamplingTensors(NamedTuple):
    """How each row is drawn, all [rows] and on the device of the logits.

    Attributes:
        temperature: float32, at least 0; 0 takes the likeliest token, of equals the lowest.
        top_k: int32, keep so many of the likeliest tokens; 0 or less keeps all.
        top_p: float32 in (0, 1], keep the fewest of the likeliest tokens that have this share of what min_p and top_k
            leave; 1 keeps all.
        min_p: float32 in [0, 1], keep only tokens at least this fraction as likely as the likeliest.
        seed: int64, the last 64 bits of the seed of the completion (`signed_word`).
        position: int64, of the token that is drawn: how many tokens stand before it.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor


def sample_tokens(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Draw one token for each row: the reference, in float64, on any device.

    Temperature, min_p, top_k and top_p keep what the host's sampler keeps; of tokens equally likely at the edge of
    top_k or top_p the lowest are kept. The draw inverts the cumulative distribution of what is kept, **in the order of
    the token ids**, at `uniform(seed, position)`. (The host's sampler takes the likeliest first where top_k or top_p
    is on: of such rows it draws other tokens, from the same distribution.)

    Args:
        logits: float32 [rows, vocab], finite or -inf, at least one of each row finite; left as they are.

    Returns:
        int64 [rows].
    """
    weights = kept_weights(logits, params)
    cumulative = weights.cumsum(dim=-1)
    target = uniform(params.seed, params.position) * cumulative[:, -1]
    drawn = (cumulative <= target[:, None]).sum(dim=-1)
    return torch.where(params.temperature > 0, drawn, logits.argmax(dim=-1))


def kept_weights(logits: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """float64 [rows, vocab], proportional to the probability of each token that is kept; 0 for the others."""
    ranked, token_ids = logits.double().sort(dim=-1, descending=True, stable=True)
    # Shifted before it is divided: however small the temperature, the best token's logit stays 0.
    temperature = params.temperature.double().clamp(min=1e-30)[:, None]
    weights = ((ranked - ranked[:, :1]) / temperature).exp()
    ranks = torch.arange(logits.shape[1], device=logits.device)
    top_k = params.top_k[:, None]
    kept = (weights >= params.min_p[:, None]) & ((top_k <= 0) | (ranks < top_k))
    weights = weights.where(kept, 0.0)
    cumulative = weights.cumsum(dim=-1)
    top_p = params.top_p.double()[:, None]
    nucleus = (cumulative - weights < top_p * cumulative[:, -1:]) | (top_p >= 1)  # the one that crosses it is kept
    return torch.zeros_like(weights).scatter_(1, token_ids, weights.where(nucleus, 0.0))


def uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """float64 in [0, 1) from int64 seeds and positions of equal shape: 53 bits of SplitMix64 (Steele et al. 2014)."""
    z = seed * signed_word(GOLDEN) + position * signed_word(COUNTER_STEP) + signed_word(START)
    z = (z ^ shifted_right(z, 30)) * signed_word(FIRST_MIX)
    z = (z ^ shifted_right(z, 27)) * signed_word(SECOND_MIX)
    z = z ^ shifted_right(z, 31)
    return shifted_right(z, 11).double() / 2**53


def shifted_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """int64 shifted as if it had no sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def signed_word(value: int) -> int:
    """The last 64 bits of an integer as the int64 that has them."""
    return (value + 2**63) % 2**64 - 2**63
