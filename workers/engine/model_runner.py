"""One step on the model: batch in, next tokens out."""

import torch

from workers.engine.attention_metadata import build_attention_metadata, lay_out
from workers.engine.kv_cache import KVCache
from workers.engine.runner import ComputedBatch
from workers.engine.sampler import sample
from workers.engine.scheduler import ScheduledBatch, ScheduledSequence
from workers.models.decoder import Decoder
from workers.request import SamplingParams


class ModelRunner:
    """Runs a model over the blocks of one KV cache. Requests that ask for `min_tokens` do not draw `eos_token_ids`."""

    def __init__(
        self, model: Decoder, kv_cache: KVCache, block_size: int, eos_token_ids: frozenset[int] = frozenset()
    ) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._block_size = block_size
        self._eos_token_ids = eos_token_ids
        self._device = kv_cache.tensor.device

    def runs_ahead(self, params: SamplingParams) -> bool:
        """Never: a batch is computed when `launch` returns."""
        return False

    def launch(self, batch: ScheduledBatch) -> ComputedBatch:
        """Compute the batch's tokens and draw one token for each item that samples."""
        logits = self.compute_logits(batch)
        sampling = [item.sequence for item in batch.items if item.samples]
        return ComputedBatch(sample(logits, sampling, self._eos_token_ids))

    @torch.inference_mode()
    def compute_logits(self, batch: ScheduledBatch) -> torch.Tensor:
        """float32 [sampling items, vocab]; the tokens' K and V are written to their blocks."""
        metadata = build_attention_metadata(lay_out(batch, self._block_size), self._device)
        token_ids = [token for item in batch.items for token in self.input_tokens(item)]
        tokens = torch.tensor(token_ids, dtype=torch.int64, device=self._device)
        return self._model.forward(tokens, metadata, self._kv_cache.tensor)

    def input_tokens(self, item: ScheduledSequence) -> list[int]:
        """The tokens of a sequence to compute."""
        begin = item.sequence.num_computed_tokens
        return item.sequence.token_ids[begin : begin + item.num_tokens]
