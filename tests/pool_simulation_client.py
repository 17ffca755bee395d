"""A client of the pools' simulation: one request through a real `Journey`, every token held against the truth."""

import asyncio
import random
from contextlib import aclosing
from dataclasses import replace

from cluster.door.failures import Loss, NoWorkerError, QuarantinedError, TimeIsOverError, WorkerLostError, digest
from cluster.door.journey import MAX_RETRY_S, Journey
from radix.block_hash import token_bytes
from tests.helpers import request_of
from tests.pool_simulation_door import Door
from tests.pool_simulation_world import BLOCK_SIZE, World
from tests.witness import EOS, expected_tokens, hashes_of
from tests.witness_runner import VOCAB_SIZE
from workers.request import FinishReason, GenerationRequest, RequestOutput

BASES = [[(base * 11 + i * 5) % VOCAB_SIZE for i in range(24)] for base in range(3)]
LENGTHS = (3, 8, 12, 17, 24)
MAX_TOKENS = (1, 4, 12, 20)


class WatchedJourney(Journey):
    """Says what it loses.

    Attributes:
        losses: how workers were lost to it.
    """

    losses: list[Loss]

    async def _recover(self, lost: WorkerLostError, attempt: int, deadline_s: float | None) -> None:
        self.losses.append(lost.loss)
        await super()._recover(lost, attempt, deadline_s)


class Client:
    """Sends a request at some time, reads what comes, and may go away.

    Attributes:
        end: how it ended.
    """

    def __init__(self, world: World, door: Door, request: GenerationRequest, begin_s: float, *, stays: bool) -> None:
        self.world, self.door, self.request = world, door, request
        self._begin_s = begin_s
        leaves = not stays and world.rng.random() < 0.3
        self._reads = world.rng.choice((1, 2, 5, 10)) if leaves else 999
        self._patience_s = world.rng.uniform(0, 4) if leaves and world.rng.random() < 0.5 else None
        self._expected = expected_tokens(request)
        self._tokens: list[int] = []
        self._losses: list[Loss] = []
        self.end = ""

    async def run(self) -> None:
        await asyncio.sleep(self._begin_s)
        self._sent_s = self.world.loop.time()
        try:
            async with asyncio.timeout(self._patience_s):
                self.end = await self._read()
        except TimeoutError:
            self.end = "left"
        except (QuarantinedError, NoWorkerError, TimeIsOverError) as error:
            self.end = type(error).__name__
            self._check_error(error)
        self.world.seen[self.end] += 1
        self._count()
        self.world.log(f"{self.request.request_id} ends: {self.end} after {self._tokens}")

    async def _read(self) -> str:
        journey = WatchedJourney(self.request, self.door, self.door.failures)
        journey.losses = self._losses
        async with aclosing(journey.outputs()) as outputs:
            async for output in outputs:
                self._take(output)
                if output.finish_reason is not None:
                    return "finished"
                if len(self._tokens) >= self._reads:
                    return "left"
        raise AssertionError("a stream ended without a reason")

    def _count(self) -> None:
        seen, losses = self.world.seen, self._losses
        seen["resumed requests"] += bool(losses)
        seen["attempts that were lost"] += len(losses)
        seen["resumed and finished"] += bool(losses) and self.end == "finished"
        seen.update(loss.name for loss in losses)

    def _take(self, output: RequestOutput) -> None:
        assert output.request_id == self.request.request_id, "an attempt's id reached the client"
        assert output.num_cached_tokens <= len(self.request.prompt_token_ids), "more was cached than there is"
        self._tokens += output.token_ids
        wanted = self._expected[: len(self._tokens)]
        assert self._tokens == wanted, f"{self.request.request_id} got {self._tokens} and not {wanted}"
        is_last = len(self._tokens) == len(self._expected)
        assert output.finish_reason == (self._reason() if is_last else None), "a wrong reason to finish"

    def _reason(self) -> FinishReason:
        sampling, last = self.request.sampling, self._expected[-1]
        ends = last in sampling.stop_token_ids or (last == EOS and not sampling.ignore_eos)
        return FinishReason.STOP if ends and len(self._expected) >= sampling.min_tokens else FinishReason.LENGTH

    def _check_error(self, error: Exception) -> None:
        """Every error has a cause."""
        losses = self._losses
        match error:
            case QuarantinedError() if losses:
                deaths = losses.count(Loss.DIED), self.door.num_deaths[self.request.request_id]
                assert min(deaths) >= 2, "nobody died of it twice"
                self.world.quarantined.add(digest(self.request))
            case QuarantinedError():
                assert digest(self.request) in self.world.quarantined, "nobody ever died of it"
            case NoWorkerError():
                assert Loss.UNREACHED in losses or self.door.failures._retries_left < 1, "there were workers"
            case TimeIsOverError():
                over_s = self.world.loop.time() - self._sent_s - (self.request.timeout_s or 0)
                assert self.request.timeout_s is not None, "it may take as long as it likes"
                assert -1e-6 < over_s < MAX_RETRY_S + 0.1, f"the time was over {over_s} s ago"


def draw_request(rng: random.Random, name: str) -> GenerationRequest:
    """One of few prefixes, with a tail of its own; nothing that would end it is drawn before `min_tokens`."""
    while True:
        tail = [rng.randrange(1, VOCAB_SIZE) for _ in range(rng.choice((0, 1, 4)))]
        prompt = rng.choice(BASES)[: rng.choice(LENGTHS)] + tail
        max_tokens, min_tokens = rng.choice(MAX_TOKENS), rng.choice((0, 0, 3))
        stops = rng.sample(range(VOCAB_SIZE), rng.choice((0, 0, 2)))
        ignore_eos = rng.random() < 0.7
        request = request_of(name, prompt, max_tokens, ignore_eos=ignore_eos, stop_token_ids=stops)
        if len(expected_tokens(request)) >= min(min_tokens, max_tokens):
            break
    sampling = replace(request.sampling, min_tokens=min(min_tokens, max_tokens))
    timeout_s = rng.choice((None, None, None, 2.0, 6.0))
    hashes = tuple(hashes_of(token_bytes(prompt), BLOCK_SIZE))
    return replace(request, sampling=sampling, timeout_s=timeout_s, block_hashes=hashes)
