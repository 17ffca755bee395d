"""Next tokens from logits. Every draw is a function of (seed, position), never of the batch or the worker."""

from collections.abc import Sequence as Items

import torch

from workers.engine.logprobs import token_logprobs
from workers.engine.penalties import adjust_logits, adjusts
from workers.engine.sequence import Sequence
from workers.request import SampledToken, SamplingParams

MASK64 = 2**64 - 1


def sample(logits: torch.Tensor, sequences: Items[Sequence], eos_token_ids: frozenset[int]) -> list[SampledToken]:
    """Draw the next token of each sequence.

    Args:
        logits: float32 [sequences, vocab].
        eos_token_ids: tokens that a sequence short of its `min_tokens` does not draw.
    """
    greedy = logits.argmax(dim=-1).tolist()
    return [
        SampledToken(likeliest) if is_plain(sequence) else sample_row(logits[row], sequence, eos_token_ids)
        for row, (sequence, likeliest) in enumerate(zip(sequences, greedy, strict=True))
    ]


def is_plain(sequence: Sequence) -> bool:
    """Whether all that a sequence wants is the likeliest token."""
    params = sequence.request.sampling
    return params.temperature == 0 and params.logprobs is None and not adjusts(sequence)


def sample_row(row: torch.Tensor, sequence: Sequence, eos_token_ids: frozenset[int]) -> SampledToken:
    """Draw one sequence's next token from its logits [vocab]; they stay as they are."""
    params = sequence.request.sampling
    adjusted = adjust_logits(row, sequence, eos_token_ids) if adjusts(sequence) else row
    if params.temperature == 0:
        token = int(adjusted.argmax())
    else:
        token = draw(adjusted, params, uniform(choice_seed(params.seed, sequence.index), sequence.num_tokens))
    return SampledToken(token, None if params.logprobs is None else token_logprobs(row, token, params.logprobs))


def draw(logits: torch.Tensor, params: SamplingParams, threshold: float) -> int:
    """Invert the cumulative distribution of one row [vocab] at `threshold`, in [0, 1)."""
    token_ids, probs = kept_tokens(logits, params)
    cumulative = probs.cumsum(dim=-1)
    choice = int((cumulative <= threshold * cumulative[-1]).sum())
    return int(token_ids[min(choice, len(token_ids) - 1)])


def kept_tokens(logits: torch.Tensor, params: SamplingParams) -> tuple[torch.Tensor, torch.Tensor]:
    """What temperature, min_p, top_k and top_p leave of one row [vocab], as if applied in that order, which is vLLM's.

    Returns int64 [kept] tokens and float64 [kept] probabilities that sum to at most 1. A vocabulary is long: only what
    may be kept is sorted, and top_k comes first, since neither temperature nor min_p changes which k are the likeliest.
    """
    token_ids = likeliest(logits, params.top_k)
    kept = logits[token_ids].double()
    # Shifted before it is divided: however small the temperature, the best token's logit stays 0.
    probs = ((kept - kept.max()) / float(params.temperature)).softmax(dim=-1)
    if params.min_p > 0:
        fits = probs >= params.min_p * probs.max()
        token_ids, probs = token_ids[fits], probs[fits]
    if params.top_p < 1:
        places = nucleus(probs, params.top_p)
        token_ids, probs = token_ids[places], probs[places]
    return token_ids, probs


def likeliest(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """int64, the `top_k` likeliest tokens of one row [vocab]; all of them where top_k is 0 or -1."""
    if not 0 < top_k < len(logits):
        return torch.arange(len(logits), device=logits.device)
    lowest = logits.topk(top_k).values[-1]
    return falling(logits, logits >= lowest)[:top_k]


def nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """int64, the places of the fewest of `probs` that make up `top_p` of their sum (Holtzman et al. 2020)."""
    mass = probs.sum()
    # All those below the mean of what may be left out do not make it up together; half of it, for the rounding.
    floor = (1 - top_p) * mass / (2 * len(probs))
    places = falling(probs, probs >= floor)
    cumulative = probs[places].cumsum(dim=-1)
    return places[: int((cumulative < top_p * mass).sum()) + 1]  # the one that crosses it is kept


def falling(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """int64, the places of the chosen values (bool, same shape), the highest first; of equals the first one first."""
    places = chosen.nonzero().flatten()
    return places[values[places].sort(descending=True, stable=True).indices]


def choice_seed(seed: int | None, index: int) -> int:
    """The seed of one of a request's completions: the request's own (None: 0) for the first, which is therefore what it
    would be alone, and for the others the 64-bit word that `mix` makes of seed and index."""
    seed = seed or 0
    return mix(seed, -index) if index else seed


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from a seed and a position: 53 bits of `mix`."""
    return (mix(seed, position) >> 11) / 2**53


def mix(seed: int, counter: int) -> int:
    """64 bits of SplitMix64 (Steele et al. 2014) from two integers. The seed's last 64 bits count."""
    z = (seed * 0x9E3779B97F4A7C15 + counter * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)
