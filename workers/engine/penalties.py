"""What a request does to its logits before a token is drawn from them."""

from collections.abc import Iterable

import torch

from workers.engine.attention_metadata import send
from workers.engine.sequence import Sequence
from workers.request import SamplingParams


def adjusts(sequence: Sequence) -> bool:
    """Whether a sequence's next token is drawn from other logits than the model's."""
    params = sequence.request.sampling
    return params.penalises or bool(params.logit_bias) or sequence.num_output_tokens < params.min_tokens


def adjust_logits(row: torch.Tensor, sequence: Sequence, eos_token_ids: frozenset[int]) -> torch.Tensor:
    """What a sequence's next token is drawn from: its logits [vocab] with bias, then penalties, then min_tokens.

    End-of-sequence tokens are masked too where `ignore_eos` would let them pass, as in vLLM. Returns float64 [vocab];
    finite but for the masked tokens, however wild the penalties.
    """
    params = sequence.request.sampling
    row = row.to(torch.float64, copy=True)
    if params.logit_bias:
        tokens, biases = zip(*dict(params.logit_bias).items(), strict=True)
        row[tokens_on(row, tokens)] += send(list(biases), row.dtype, row.device)
    if params.penalises:
        row = penalise(row, sequence.token_ids, len(sequence.request.prompt_token_ids), params)
    if sequence.num_output_tokens < params.min_tokens:
        row.index_fill_(0, tokens_on(row, eos_token_ids.union(params.stop_token_ids)), -torch.inf)
    return row


def tokens_on(row: torch.Tensor, token_ids: Iterable[int]) -> torch.Tensor:
    """int64, tokens on the device of a row."""
    return send(list(token_ids), torch.int64, row.device)


def counted(row: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """int64 [vocab], how often each token is there. torch.bincount would wait for a GPU, to learn the highest."""
    counts = torch.zeros(len(row), dtype=torch.int64, device=row.device)
    return counts.scatter_add_(0, tokens, torch.ones_like(tokens))


def penalise(row: torch.Tensor, token_ids: list[int], num_prompt_tokens: int, params: SamplingParams) -> torch.Tensor:
    """Logits [vocab] with the penalties for `token_ids`, the prompt and the completion so far.

    Repetition as in CTRL (Keskar et al. 2019), of prompt and completion; frequency and presence as in the OpenAI API,
    of the completion only.
    """
    tokens = tokens_on(row, token_ids)
    seen = counted(row, tokens) > 0
    counts = counted(row, tokens[num_prompt_tokens:])
    penalty = float(params.repetition_penalty)
    row = torch.where(seen, torch.where(row > 0, row / penalty, row * penalty), row)
    row = row - params.frequency_penalty * counts - params.presence_penalty * (counts > 0)
    largest = torch.finfo(row.dtype).max
    return row.clamp(-largest, largest)  # an infinite one would leave no distribution
