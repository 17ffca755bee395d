"""A prefill worker and a decode worker side by side, driven by hand."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from tests.ahead import AheadRunner, run_ahead
from tests.helpers import VOCAB_SIZE, num_leaked_blocks, request_of, tokens_by_request
from workers.engine.build import BuiltEngine
from workers.pools.decode_worker import DecodeWorker
from workers.pools.kv_frames import BadFrameError, ReceivedBlocks, frames_of
from workers.pools.kv_handoff import KVHandoff
from workers.pools.prefill_worker import PrefillWorker
from workers.request import GenerationRequest, RequestOutput

Frames = list[bytes]
SYSTEM = [(i * i * 17 + 3) % VOCAB_SIZE for i in range(16)]
PROMPTS = {"shared": [*SYSTEM, 1, 2, 3], "blocks": SYSTEM, "long": [*SYSTEM, *range(100, 140)], "short": [9, 8, 7]}


@dataclass(frozen=True)
class Damage:
    """What is done to hand-offs before they are sent, and to their frames on the way."""

    handoff: Callable[[KVHandoff], KVHandoff] = lambda handoff: handoff
    frames: Callable[[Frames], Iterable[bytes]] = lambda frames: frames


NONE = Damage()


def requests(max_tokens: int = 20, sampling: Mapping[str, object] | None = None) -> list[GenerationRequest]:
    return [request_of(name, prompt, max_tokens, **(sampling or {})) for name, prompt in PROMPTS.items()]


class Pair:
    """A prefill worker and a decode worker, driven by hand; what each request left and got on the way stays at hand."""

    def __init__(self, prefill: BuiltEngine, decode: BuiltEngine) -> None:
        self.engines = prefill.engine, decode.engine
        self.prefill = PrefillWorker(prefill)
        self.decode = DecodeWorker(decode)
        self.handoffs: dict[str, KVHandoff] = {}
        self.received: dict[str, ReceivedBlocks] = {}

    def run_ahead(self) -> list[AheadRunner]:
        """From here on, both."""
        return [run_ahead(engine) for engine in self.engines]

    def run(self, batch: list[GenerationRequest], damage: Damage = NONE) -> dict[str, list[int]]:
        """The tokens of each request."""
        return tokens_by_request(self.run_outputs(batch, damage))

    def run_outputs(self, batch: list[GenerationRequest], damage: Damage = NONE) -> list[RequestOutput]:
        """Prefill all, decode all; integrity after every step and nothing left behind."""
        self.run_prefill(batch)
        outputs = [*self.hand_over(batch, damage), *self.run_decode()]
        assert [num_leaked_blocks(engine) for engine in self.engines] == [0, 0]
        assert self.prefill._max_tokens == {}
        return outputs

    def run_prefill(self, batch: list[GenerationRequest]) -> None:
        for request in batch:
            self.prefill.add_request(request)
        while self.prefill.has_work:
            self.handoffs.update(self.prefill.step())
            self.prefill.check_integrity()

    def hand_over(self, batch: list[GenerationRequest], damage: Damage = NONE) -> list[RequestOutput]:
        """Queue prefilled requests for decoding, but for those that have ended; returns their first outputs."""
        return [
            self.hand_over_as(request, damage.handoff(self.handoffs[request.request_id]), damage) for request in batch
        ]

    def hand_over_as(self, request: GenerationRequest, handoff: KVHandoff, damage: Damage = NONE) -> RequestOutput:
        """Queue a request with a hand-off, which may be another one's."""
        first = handoff.prefilled.first_output
        if first.finish_reason is None:
            blocks = self.send(request, handoff, damage)
            self.decode.add_prefilled(request, handoff.prefilled, blocks)
        return first

    def send(self, request: GenerationRequest, handoff: KVHandoff, damage: Damage = NONE) -> ReceivedBlocks:
        """Bring the KV over. The first bad frame ends the transfer."""
        received = self.received[request.request_id] = self.decode.expect(request, handoff.prefilled)
        with suppress(BadFrameError):
            for frame in damage.frames(list(frames_of(handoff.blocks, received.first_block))):
                received.add(frame)
        return received

    def run_decode(self) -> list[RequestOutput]:
        outputs: list[RequestOutput] = []
        for _ in range(2000):
            if not self.decode.has_work:
                return outputs
            outputs += [output for _, output in self.decode.step()]
            self.decode.check_integrity()
        raise AssertionError("the decode worker never ends")
