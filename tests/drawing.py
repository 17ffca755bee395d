"""Sequences to draw from, and the distribution that their draws should follow, in plain Python."""

import math
from collections.abc import Sequence as Items

import torch

from tests.witness import hasher_of
from workers.engine.sampler import sample
from workers.engine.sequence import Sequence
from workers.request import GenerationRequest, SampledToken, SamplingParams

EOS = frozenset({3})


def sequence_of(params: SamplingParams, output: Items[int] = (), prompt: Items[int] = (1,), index: int = 0) -> Sequence:
    """A sequence in the middle of its completion."""
    sequence = Sequence(GenerationRequest("r", tuple(prompt), params), hasher_of(16), index)
    sequence.token_ids += output
    return sequence


def draw_one(row: Items[float] | torch.Tensor, sequence: Sequence, eos: frozenset[int] = EOS) -> SampledToken:
    """The sequence's next token, drawn alone."""
    return sample(torch.as_tensor(row)[None], [sequence], eos)[0]


def expected_distribution(row: Items[float], sequence: Sequence, eos: frozenset[int] = EOS) -> list[float]:
    """What the documentation of `SamplingParams` says, written as directly as it can be; temperature above 0."""
    params, output = sequence.request.sampling, sequence.token_ids[len(sequence.request.prompt_token_ids) :]
    logits = [logit + dict(params.logit_bias).get(token, 0.0) for token, logit in enumerate(row)]
    for token in set(sequence.token_ids):
        factor = params.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in output:
        logits[token] -= params.frequency_penalty
    for token in set(output):
        logits[token] -= params.presence_penalty
    if len(output) < params.min_tokens:
        for token in eos | set(params.stop_token_ids):
            logits[token] = -math.inf
    best = max(logits)
    weights = [math.exp((logit - best) / params.temperature) for logit in logits]
    kept = [token for token, weight in enumerate(weights) if weight >= params.min_p]
    kept.sort(key=lambda token: -weights[token])
    kept = kept[: params.top_k] if params.top_k > 0 else kept
    return normalised(weights, nucleus(weights, kept, params.top_p))


def nucleus(weights: Items[float], ranked: Items[int], top_p: float) -> list[int]:
    """The first of the ranked tokens that together have at least `top_p` of their weight."""
    total, mass, kept = sum(weights[token] for token in ranked), 0.0, []
    for token in ranked:
        kept.append(token)
        mass += weights[token]
        if mass >= top_p * total and top_p < 1:
            break
    return kept


def normalised(weights: Items[float], kept: Items[int]) -> list[float]:
    total = sum(weights[token] for token in kept)
    return [weight / total if token in kept else 0.0 for token, weight in enumerate(weights)]
