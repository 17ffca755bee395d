"""Next tokens drawn where the logits are; the host learns of them later."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items

import torch

from kernels.sampling import SamplingTensors, signed_word
from workers.engine.host_copy import HostCopy
from workers.engine.logprobs import token_logprobs
from workers.engine.penalties import adjust_logits, adjusts
from workers.engine.sampler import choice_seed
from workers.engine.sequence import Sequence
from workers.engine.staged_tensors import StagedTensors
from workers.request import SampledToken

Draw = Callable[[torch.Tensor, SamplingTensors], torch.Tensor]
DTYPES = (torch.float32, torch.int32, torch.float32, torch.float32, torch.int64, torch.int64)


class DrawnTokens:
    """One batch's tokens on their way (`workers.engine.runner.LaunchedBatch`).

    Args:
        tokens: int64 [sampling items].
        logits: float32 [vocab], the model's own, by row, of those whose log-probabilities are wanted.
        num_top: how many alternatives each of these wants.
    """

    def __init__(self, tokens: torch.Tensor, logits: Mapping[int, torch.Tensor], num_top: Mapping[int, int]) -> None:
        self._tokens = HostCopy(tokens)
        self._logits = logits
        self._num_top = num_top

    def collect(self) -> list[SampledToken]:
        """Wait for them."""
        return [
            SampledToken(token, token_logprobs(self._logits[row], token, self._num_top[row]))
            if row in self._logits
            else SampledToken(token)
            for row, token in enumerate(self._tokens.wait().tolist())
        ]


class DeviceSampler:
    """Draws without waiting for the host.

    Args:
        draw: of `kernels.sampling`, for the device.
        max_num_seqs: rows of a batch at most.
        eos_token_ids: tokens that a sequence short of its `min_tokens` does not draw.

    Attributes:
        drawn: int64 [max_num_seqs], the tokens of the last batch, always at this address.
    """

    def __init__(self, draw: Draw, max_num_seqs: int, eos_token_ids: frozenset[int], device: torch.device) -> None:
        self._draw = draw
        self._eos_token_ids = eos_token_ids
        fields = {name: ((max_num_seqs,), dtype) for name, dtype in zip(SamplingTensors._fields, DTYPES, strict=True)}
        self._params = StagedTensors(fields, device)
        self.drawn = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)

    def launch(self, logits: torch.Tensor, sequences: Items[Sequence]) -> DrawnTokens:
        """Draw each sequence's next token from its row of float32 [sequences, vocab], which may be overwritten."""
        wanted = {
            row: sequence.request.sampling.logprobs
            for row, sequence in enumerate(sequences)
            if sequence.request.sampling.logprobs is not None
        }
        untouched = {row: logits[row].clone() for row in wanted}
        for row, sequence in enumerate(sequences):
            if adjusts(sequence):
                adjusted = adjust_logits(logits[row], sequence, self._eos_token_ids)
                logits[row] = adjusted - adjusted.max()  # float64: what penalties make of a logit may pass float32
        if sequences:
            self.drawn[: len(sequences)] = self._draw(logits, self._send_params(sequences))
        return DrawnTokens(self.drawn[: len(sequences)], untouched, wanted)

    def _send_params(self, sequences: Items[Sequence]) -> SamplingTensors:
        columns = zip(*map(drawing_params, sequences), strict=True)
        for (tensor, dtype), column in zip(zip(self._params.host.values(), DTYPES, strict=True), columns, strict=True):
            tensor[: len(sequences)] = torch.tensor(column, dtype=dtype)
        self._params.upload()
        return SamplingTensors(*(tensor[: len(sequences)] for tensor in self._params.device.values()))


def drawing_params(sequence: Sequence) -> tuple[float, int, float, float, int, int]:
    """What decides a sequence's next token, in the order of `SamplingTensors`."""
    params = sequence.request.sampling
    seed = signed_word(choice_seed(params.seed, sequence.index))
    return params.temperature, max(params.top_k, 0), params.top_p, params.min_p, seed, sequence.num_tokens
