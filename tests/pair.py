"""A prefill worker and a decode worker side by side, driven by hand."""

from collections.abc import Callable, Mapping

from tests.ahead import AheadRunner, run_ahead
from tests.helpers import VOCAB_SIZE, num_leaked_blocks, request_of
from workers.engine.build import BuiltEngine
from workers.pools.decode_worker import DecodeWorker
from workers.pools.kv_handoff import KVHandoff
from workers.pools.prefill_worker import PrefillWorker
from workers.request import GenerationRequest, RequestOutput

Mangle = Callable[[KVHandoff], KVHandoff]
SYSTEM = [(i * i * 17 + 3) % VOCAB_SIZE for i in range(16)]
PROMPTS = {"shared": [*SYSTEM, 1, 2, 3], "blocks": SYSTEM, "long": [*SYSTEM, *range(100, 140)], "short": [9, 8, 7]}


def requests(max_tokens: int = 20, sampling: Mapping[str, object] | None = None) -> list[GenerationRequest]:
    return [request_of(name, prompt, max_tokens, **(sampling or {})) for name, prompt in PROMPTS.items()]


class Pair:
    """A prefill worker and a decode worker, driven by hand."""

    def __init__(self, prefill: BuiltEngine, decode: BuiltEngine) -> None:
        self.engines = prefill.engine, decode.engine
        self.prefill = PrefillWorker(prefill)
        self.decode = DecodeWorker(decode)
        self.handoffs: dict[str, KVHandoff] = {}

    def run_ahead(self) -> list[AheadRunner]:
        """From here on, both."""
        return [run_ahead(engine) for engine in self.engines]

    def run(self, batch: list[GenerationRequest], mangle: Mangle = lambda handoff: handoff) -> dict[str, list[int]]:
        """Prefill all, decode all; integrity after every step and nothing left behind."""
        self.run_prefill(batch)
        for request in batch:
            self.decode.add_request(request, mangle(self.handoffs[request.request_id]))
        tokens: dict[str, list[int]] = {request.request_id: [] for request in batch}
        for output in self.run_decode():
            tokens[output.request_id] += output.token_ids
            assert output.num_cached_tokens == self.handoffs[output.request_id].num_cached_tokens
        assert [num_leaked_blocks(engine) for engine in self.engines] == [0, 0]
        assert self.prefill._max_tokens == self.decode._num_cached_tokens == {}
        return tokens

    def run_prefill(self, batch: list[GenerationRequest]) -> None:
        for request in batch:
            self.prefill.add_request(request)
        while self.prefill.has_work:
            self.handoffs.update(self.prefill.step())
            self.prefill.check_integrity()

    def run_decode(self) -> list[RequestOutput]:
        outputs: list[RequestOutput] = []
        for _ in range(2000):
            if not self.decode.has_work:
                return outputs
            outputs += [output for _, output in self.decode.step()]
            self.decode.check_integrity()
        raise AssertionError("the decode worker never ends")
