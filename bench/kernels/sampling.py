"""The sampler at the vocabulary of Llama 3, plain and with top_k and top_p."""

import torch

from bench.kernels.case import KernelCase, Launch
from kernels.sampling import SamplingTensors

VOCAB = 128256


def cases() -> list[KernelCase]:
    """One row and a batch, drawn plainly and from a nucleus."""
    return [sampling_case(rows, top_k, top_p) for top_k, top_p in ((0, 1.0), (50, 0.9)) for rows in (1, 64, 256)]


def sampling_case(rows: int, top_k: int, top_p: float) -> KernelCase:
    """One draw a row; the least traffic is reading the logits once, though they are read several times."""

    def logits_on(device: torch.device) -> torch.Tensor:
        return torch.randn(rows, VOCAB, device=device) * 3

    def make(device: torch.device) -> Launch:
        from kernels.triton_ops.sampling import sample_tokens

        logits, params = logits_on(device), params_on(device, rows, top_k, top_p)
        return lambda: sample_tokens(logits, params)

    def make_torch(device: torch.device) -> Launch:
        logits = logits_on(device)
        return lambda: draw_sorted(logits, top_k, top_p) if top_k else draw(logits)

    name = f"sample_tokens {VOCAB} top_k={top_k} top_p={top_p} B={rows}"
    return KernelCase(name, make, rows * VOCAB * 4, rows * VOCAB * 4, {"torch": make_torch})


def params_on(device: torch.device, rows: int, top_k: int, top_p: float) -> SamplingTensors:
    """The same parameters for all rows, other seeds."""
    return SamplingTensors(
        temperature=torch.full((rows,), 0.8, device=device),
        top_k=torch.full((rows,), top_k, dtype=torch.int32, device=device),
        top_p=torch.full((rows,), top_p, device=device),
        min_p=torch.zeros(rows, device=device),
        seed=torch.arange(rows, device=device),
        position=torch.full((rows,), 1000, device=device),
    )


def draw(logits: torch.Tensor) -> torch.Tensor:
    """Softmax and multinomial, as torch users do it."""
    return torch.multinomial((logits / 0.8).softmax(dim=-1), 1)


def draw_sorted(logits: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """The likeliest `top_k`, of them the nucleus of `top_p`, and a draw from it."""
    likeliest, token_ids = (logits / 0.8).topk(top_k, dim=-1)
    probs = likeliest.softmax(dim=-1)
    kept = probs.where(probs.cumsum(dim=-1) - probs < top_p, 0.0)
    return token_ids.gather(-1, torch.multinomial(kept, 1))
