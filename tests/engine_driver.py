"""Everything that can happen to an engine, one method each, and what must be true after each of them.

`tests/test_workers_engine.py` draws the calls with hypothesis, which shrinks what fails; `random_schedule` draws them
from a seed, which is faster and can be replayed.
"""

import random
from collections import Counter
from collections.abc import Sequence

from radix.events import BlocksRemoved, BlocksStored, NamespaceCleared
from tests.helpers import num_leaked_blocks, request_of
from tests.witness import WitnessBlocks, WitnessEngine, expected_tokens
from tests.witness_runner import VOCAB_SIZE
from workers.request import FinishReason, GenerationRequest, RequestOutput

POOL_TOKENS = 48
BASES = [[(base * 11 + i * 5) % VOCAB_SIZE for i in range(24)] for base in range(2)]
LENGTHS = [0, 5, 8, 9, 17, 24]
MAX_TOKENS = [1, 3, 8, 16, 24]
Completion = tuple[str, int]  # request id and index


class EngineDriver:
    """A witness engine in a pool too small for its requests.

    Attributes:
        seen: how often what happened: steps, aborts, evictions, and what `WitnessEngine.seen` counts.

    Args:
        ahead: whether the next batch is launched while one is computed.
    """

    def __init__(self, block_size: int = 4, max_num_batched_tokens: int = 7, *, ahead: bool = False) -> None:
        self.num_blocks, self.block_size = POOL_TOKENS // block_size, block_size
        self.engine = WitnessEngine(self.num_blocks, block_size, 4, max_num_batched_tokens, ahead=ahead)
        self.expected: dict[Completion, list[int]] = {}  # of the completions that have not ended
        self.given: dict[Completion, int] = {}  # how many of the expected tokens came out
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.held: list[str] = []
        self.last_turn: list[int] = []
        self.followed: dict[int, int] = {}  # block hash -> the hash before it, from the events
        self.num_requests = 0

    @property
    def seen(self) -> Counter[str]:
        return self.engine.seen

    @property
    def live(self) -> list[str]:
        """Requests of which a completion has not ended."""
        return sorted({name for name, _ in self.expected})

    def add(
        self,
        text: Sequence[int],
        max_tokens: int,
        n: int = 1,
        *,
        ignore_eos: bool = False,
        hold: bool = False,
        min_tokens: int = 0,
        presence_penalty: float = 0.0,
    ) -> None:
        """The witness draws what it likes: a penalty only keeps the request from running ahead."""
        request = self._request(
            text,
            max_tokens,
            n=1 if hold else n,
            ignore_eos=ignore_eos,
            min_tokens=min(min_tokens, max_tokens),
            presence_penalty=presence_penalty,
        )
        self.engine.add_request(request, hold=hold)
        self._expect(request)
        self.held += [request.request_id] if hold else []

    def add_next_turn(self, text: Sequence[int], max_tokens: int, n: int) -> None:
        """A prompt that continues a completion that has ended."""
        self.add([*self.last_turn, *text], max_tokens, n)

    def add_prefilled(self, text: Sequence[int], max_tokens: int, num_good: int) -> None:
        """A prompt computed elsewhere, of whose blocks only the first `num_good` arrive."""
        request = self._request(text, max_tokens + 1, ignore_eos=True)
        self._expect(request)
        self.given[request.request_id, 0] = 1
        blocks = WitnessBlocks(request.prompt_token_ids, self.block_size, num_good)
        self.engine.add_prefilled(request, expected_tokens(request)[0], blocks)

    def step(self) -> None:
        self.seen["steps"] += 1
        self.engine.runner.batches.clear()
        for output in self.engine.step():
            self._take(output)
        self.check()

    def preempt(self) -> None:
        """The youngest loses its blocks though there is room."""
        scheduler = self.engine._scheduler
        if scheduler.running:
            scheduler._preempt(scheduler.running[-1])

    def evict(self, num_blocks: int) -> None:
        """Cached blocks go though there is room for all."""
        self.engine.kv.pool.free(self.engine.kv.cache.evict(num_blocks))

    def abort(self, name: str) -> None:
        self.seen["aborts"] += 1
        self.engine.abort(name)
        for completion in [completion for completion in self.expected if completion[0] == name]:
            del self.expected[completion], self.given[completion]
        self.held = [other for other in self.held if other != name]

    def release_held(self) -> None:
        """What has ended and is held gives its blocks back."""
        for name in [name for name in self.held if (name, 0) not in self.expected]:
            self.engine.release(name)
            self.held.remove(name)

    def check(self) -> None:
        self.engine.check_integrity()
        self._check_events()

    def drain(self) -> None:
        """Everybody gets to an end, and nothing is left behind."""
        for _ in range(3000):
            self.release_held()
            if not self.engine.has_work:
                break
            self.step()
        assert not self.expected
        assert not self.held
        assert_nothing_left(self.engine)
        self._check_events()
        assert self.followed == {}

    def _check_events(self) -> None:
        """Who follows the events knows the same blocks behind the same parents as one that asks."""
        for event in self.engine.take_events():
            self.seen["evictions"] += isinstance(event, BlocksRemoved)
            if isinstance(event, BlocksStored):
                self.followed.update(parents_of(event))
            elif isinstance(event, NamespaceCleared):
                self.followed.clear()
            else:
                for block_hash in event.hashes[event.num_kept :]:
                    del self.followed[block_hash]
        assert self.followed == {
            block: parent for run in self.engine.kv.cache.snapshot() for block, parent in parents_of(run)
        }

    def _request(self, text: Sequence[int], max_tokens: int, **sampling: object) -> GenerationRequest:
        self.num_requests += 1
        room = POOL_TOKENS - max_tokens
        return request_of(str(self.num_requests), (text or [1])[:room], max_tokens, **sampling)

    def _expect(self, request: GenerationRequest) -> None:
        for index in range(request.sampling.n):
            self.expected[request.request_id, index] = expected_tokens(request, index)
            self.given[request.request_id, index] = 0
        self.prompts[request.request_id] = request.prompt_token_ids

    def _take(self, output: RequestOutput) -> None:
        completion = output.request_id, output.index
        expected, begin = self.expected[completion], self.given[completion]
        end = self.given[completion] = begin + len(output.token_ids)
        assert list(output.token_ids) == expected[begin:end], completion
        assert (output.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)) == (end == len(expected))
        if end == len(expected):
            self.last_turn = [*self.prompts[output.request_id], *self.expected.pop(completion)]
            del self.given[completion]


def assert_nothing_left(engine: WitnessEngine) -> None:
    """No request, no block and, once the cache is emptied, no node."""
    engine.check_integrity()
    assert not engine.has_work
    assert engine._sequences == {}
    assert num_leaked_blocks(engine) == 0
    engine.kv.pool.free(engine.kv.cache.evict(engine.kv.pool.num_blocks))
    assert engine.kv.pool.num_free == engine.kv.pool.num_blocks
    assert list(engine.kv.cache.snapshot()) == []
    engine.check_integrity()


def parents_of(run: BlocksStored) -> list[tuple[int, int]]:
    """Each block hash of a run with the hash before it."""
    return list(zip(run.hashes, [run.anchor, *run.hashes], strict=False))


def random_schedule(seed: int, num_steps: int, *, ahead: bool) -> Counter[str]:
    """Drive an engine through `num_steps` steps and to its end, all drawn from `seed`; returns what was seen."""
    rng = random.Random(seed)
    driver = EngineDriver(rng.choice([1, 3, 4]), rng.choice([4, 7, 64]), ahead=ahead)
    while driver.seen["steps"] < num_steps:
        act(driver, rng)
    driver.drain()
    return driver.seen


def act(driver: EngineDriver, rng: random.Random) -> None:
    """One thing that happens; most of the time, a step."""
    text = rng.choice(BASES)[: rng.choice(LENGTHS)] + [rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(4))]
    max_tokens, n = rng.choice(MAX_TOKENS), rng.choice([1, 1, 2, 3])
    draw = rng.random()
    if draw < 0.06 and len(driver.live) < 8:
        driver.add(
            text,
            max_tokens,
            n,
            ignore_eos=rng.random() < 0.5,
            hold=rng.random() < 0.2,
            min_tokens=rng.choice([0, 0, 5]),
            presence_penalty=rng.choice([0.0, 0.0, 0.0, 1.0]),
        )
    elif draw < 0.08 and len(driver.live) < 8:
        driver.add_next_turn(text[:3], max_tokens, n)
    elif draw < 0.1 and len(driver.live) < 8:
        driver.add_prefilled(text, max_tokens, rng.randrange(10))
    elif draw < 0.12:
        driver.preempt()
    elif draw < 0.14:
        driver.evict(rng.randrange(1, 4))
    elif draw < 0.15 and driver.live:
        driver.abort(rng.choice(driver.live))
    elif draw < 0.2:
        driver.release_held()
    else:
        driver.step()
