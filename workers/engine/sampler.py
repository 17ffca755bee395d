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
        token = draw(adjusted, params, uniform(choice_seed(params.seed, sequence.index), len(sequence.token_ids)))
    return SampledToken(token, None if params.logprobs is None else token_logprobs(row, token, params.logprobs))


def draw(logits: torch.Tensor, params: SamplingParams, threshold: float) -> int:
    """Invert the cumulative distribution of one row [vocab] at `threshold`, in [0, 1)."""
    logits = logits.double()
    # Shifted before it is divided: however small the temperature, the best token's logit stays 0.
    probs = ((logits - logits.max()) / float(params.temperature)).softmax(dim=-1)
    token_ids = kept_token_ids(probs, params)
    cumulative = probs[token_ids].cumsum(dim=-1)
    choice = int((cumulative <= threshold * cumulative[-1]).sum())
    return int(token_ids[min(choice, len(token_ids) - 1)])


def kept_token_ids(probs: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """int64 [kept], the tokens that min_p, top_k and top_p leave of a distribution [vocab], in that order as in vLLM.

    Only what can be kept is sorted: a vocabulary is long, and what is likely in it is short.
    """
    token_ids = ((probs > 0) & (probs >= params.min_p * probs.max())).nonzero().flatten()
    if 0 < params.top_k < len(token_ids):
        lowest = probs[token_ids].topk(params.top_k).values[-1]
        token_ids = likeliest_first(probs, token_ids[probs[token_ids] >= lowest])[: params.top_k]
    if params.top_p < 1:
        mass = probs[token_ids].sum()
        # Tokens below the mean of what top_p may leave out cannot reach its sum together; half, for the rounding.
        floor = (1 - params.top_p) * mass / (2 * len(token_ids))
        token_ids = likeliest_first(probs, token_ids[probs[token_ids] >= floor])
        cumulative = probs[token_ids].cumsum(dim=-1)
        token_ids = token_ids[: int((cumulative < params.top_p * mass).sum()) + 1]  # the one that crosses it is kept
    return token_ids


def likeliest_first(probs: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Tokens by falling probability; of equals the lower id first."""
    return token_ids[probs[token_ids].sort(descending=True, stable=True).indices]


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
