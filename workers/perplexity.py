"""How well a model predicts a text, measured on the CPU."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from kernels.attention_inputs import StepTensors
from workers.config import WeightConfig
from workers.engine.attention_metadata import AttentionMetadata
from workers.models.decoder import Decoder
from workers.models.spec import ModelSpec
from workers.validation import RequestError
from workers.weights.loader import WeightLoader
from workers.weights.manifest import verify_manifest
from workers.weights.open_checkpoint import open_checkpoint, read_spec

MAX_CONTEXT = 2048  # tokens that a window has at most: what published figures are measured with


@dataclass(frozen=True)
class Prediction:
    """What a text costs when the model predicts it token by token.

    Attributes:
        nats: negative log-likelihood of the tokens together.
        tokens: those that were predicted: all but the first, which has nothing before it.
        bytes: of the text as UTF-8.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Per token: comparable between models that have one tokenizer."""
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between all models."""
        return self.nats / math.log(2) / self.bytes


def load_decoder(model_dir: Path, config: WeightConfig | None = None) -> Decoder:
    """The decoder alone, on the CPU; without a configuration as a worker has it, but that floats stay floats.

    Raises ModelError where the directory holds no model that can be served.
    """
    verify_manifest(model_dir)
    spec = read_spec(model_dir)
    checkpoint = open_checkpoint(model_dir, spec)
    if config is None:
        config = WeightConfig(quantization="int4" if checkpoint.keeps_floats else "none", device="cpu")
    weights = WeightLoader(checkpoint, spec, config, torch.device("cpu")).load()
    return Decoder(spec, weights, min(spec.max_model_len, MAX_CONTEXT), strict=False)


@torch.inference_mode()
def predict(model: Decoder, tokens: Sequence[int], num_bytes: int) -> Prediction:
    """Predict a text in windows, of which each begins in the middle of the one before.

    Every token sees at least half a window of tokens before it, but for the first ones. Raises RequestError for a text
    of less than two tokens.
    """
    if len(tokens) < 2:
        raise RequestError(f"the text has {len(tokens)} tokens; at least two are needed, better some thousands")
    context = min(model.spec.max_model_len, MAX_CONTEXT)
    nats = sum(window_losses(model, window)[seen:].sum().item() for window, seen in windows(tokens, context))
    return Prediction(nats, len(tokens) - 1, num_bytes)


def windows(tokens: Sequence[int], context: int) -> Iterator[tuple[torch.Tensor, int]]:
    """int64 [up to context + 1] tokens, and how many of the predictions in them another window has made."""
    stride = context - context // 2
    for begin in range(0, max(len(tokens) - context - 1, 0) + stride, stride):
        window = torch.tensor(tokens[begin : begin + context + 1])
        seen = 0 if begin == 0 else context - stride
        if len(window) > seen + 1:
            yield window, seen


def window_losses(model: Decoder, window: torch.Tensor) -> torch.Tensor:
    """Nats of each token but the first, given those before it in the window: float32 [tokens - 1]."""
    return F.cross_entropy(all_logits(model, window[:-1]), window[1:], reduction="none")


def all_logits(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    """What follows each token, given those before it: float32 [tokens, vocab]."""
    rows = torch.arange(len(tokens))
    count = torch.tensor([len(rows)], dtype=torch.int32)
    step = StepTensors(rows, rows, torch.zeros(1, 1, dtype=torch.int32), F.pad(count, (1, 0)), count)
    cache = one_block_cache(model.spec, len(rows), model.weights.embed_tokens.dtype)
    return model.forward(tokens, AttentionMetadata(step, rows), cache)


def one_block_cache(spec: ModelSpec, num_tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """KV for one sequence, as a single block."""
    return torch.zeros(spec.num_layers, 2, 1, num_tokens, spec.num_kv_heads, spec.head_dim, dtype=dtype)
