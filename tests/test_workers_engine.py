"""Whatever happens around a request, its tokens are those of a model that has no cache at all."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from radix.events import BlocksStored
from tests.helpers import num_leaked_blocks, request_of
from tests.witness import ROOT, VOCAB_SIZE, WitnessBlocks, WitnessEngine, expected_tokens, kv_of
from workers.request import FinishReason, GenerationRequest, RequestOutput

NUM_BLOCKS, BLOCK_SIZE = 12, 4
TOKENS = st.integers(0, VOCAB_SIZE - 1)
MAX_TOKENS = st.sampled_from([1, 3, 8, 16, 24])
BASES = [[(base * 11 + i * 5) % VOCAB_SIZE for i in range(24)] for base in range(2)]


TEXTS = st.builds(
    lambda base, length, tail: base[:length] + tail,
    st.sampled_from(BASES),
    st.sampled_from([0, 5, 8, 9, 17, 24]),
    st.lists(TOKENS, max_size=3),
)


class EngineMachine(RuleBasedStateMachine):
    """Requests with shared prefixes come, are prefilled elsewhere, held and aborted in a pool too small for them."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = WitnessEngine(NUM_BLOCKS, BLOCK_SIZE, max_num_seqs=4, max_num_batched_tokens=7)
        self.live: dict[str, GenerationRequest] = {}
        self.tokens: dict[str, list[int]] = {}
        self.held: set[str] = set()
        self.finished: list[GenerationRequest] = []
        self.followed: dict[int, int] = {}  # block hash -> the hash before it, from the events
        self.chained: dict[int, int] = {}  # the same, from the sequences
        self.count = 0

    @rule(text=TEXTS, max_tokens=MAX_TOKENS, ignore_eos=st.booleans(), hold=st.booleans(), next_turn=st.booleans())
    def add(self, text: list[int], max_tokens: int, ignore_eos: bool, hold: bool, next_turn: bool) -> None:
        if next_turn and self.finished:
            before = self.finished[-1]
            text = [*before.prompt_token_ids, *self.tokens[before.request_id], *text[:3]]
        request = self.new_request(text, max_tokens, ignore_eos)
        self.engine.add_request(request, hold=hold)
        self.live[request.request_id] = request
        self.held |= {request.request_id} if hold else set()

    @rule(text=TEXTS, max_tokens=MAX_TOKENS, num_good=st.integers(0, 9))
    def add_prefilled(self, text: list[int], max_tokens: int, num_good: int) -> None:
        request = self.new_request(text, max_tokens + 1, ignore_eos=True)
        first = expected_tokens(request)[0]
        self.tokens[request.request_id].append(first)
        blocks = WitnessBlocks(request.prompt_token_ids, BLOCK_SIZE, num_good)
        self.engine.add_prefilled(request, first, blocks)
        self.live[request.request_id] = request

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            for output in self.engine.step():
                self.take(output)
            self.engine.check_integrity()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.live:
            victim = data.draw(st.sampled_from(sorted(self.live)))
            self.engine.abort(victim)
            del self.live[victim]
            self.held.discard(victim)

    @rule()
    def release_held(self) -> None:
        for name in [name for name in self.held if name not in self.live]:
            self.release(name)

    @invariant()
    def blocks_add_up(self) -> None:
        self.engine.check_integrity()

    @invariant()
    def events_tell_what_the_cache_holds(self) -> None:
        """A router that follows the events knows the same blocks behind the same parents as one that asks."""
        for event in self.engine.take_events():
            if isinstance(event, BlocksStored):
                self.followed.update(parents_of(event))
            else:
                for block_hash in event.hashes:
                    del self.followed[block_hash]
        for request_id in self.live:
            hashes = self.engine.sequence(request_id).block_hashes
            self.chained.update(zip(hashes, [ROOT, *hashes], strict=False))
        assert all(self.chained.get(block, parent) == parent for block, parent in self.followed.items())
        asked = [link for run in self.engine.kv.cache.snapshot() for link in parents_of(run)]
        assert sorted(self.followed.items()) == sorted(asked)

    def teardown(self) -> None:
        """Everybody gets to an end, and every block is free or evictable."""
        self.release_held()
        for _ in range(2000):
            if not self.engine.has_work:
                break
            self.step(times=1)
            self.release_held()
        assert not self.live
        assert num_leaked_blocks(self.engine) == 0
        evicted = self.engine.kv.cache.evict(NUM_BLOCKS)
        assert len(evicted) + self.engine.kv.pool.num_free == NUM_BLOCKS

    def new_request(self, text: list[int], max_tokens: int, ignore_eos: bool) -> GenerationRequest:
        self.count += 1
        room = NUM_BLOCKS * BLOCK_SIZE - max_tokens
        request = request_of(str(self.count), (text or [1])[:room], max_tokens, ignore_eos=ignore_eos)
        self.tokens[request.request_id] = []
        return request

    def take(self, output: RequestOutput) -> None:
        name = output.request_id
        self.tokens[name] += output.token_ids
        expected = expected_tokens(self.live[name])
        assert self.tokens[name] == expected[: len(self.tokens[name])]
        if output.finish_reason is not None:
            assert self.tokens[name] == expected
            assert output.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
            self.finished.append(self.live.pop(name))

    def release(self, name: str) -> None:
        """What a held sequence's table leads to is the KV of its tokens, the last one not computed."""
        sequence = self.engine.sequence(name)
        kv = self.engine.memory.read(sequence.block_table, sequence.num_computed_tokens)
        assert kv == kv_of(sequence.token_ids[:-1])
        self.engine.release(name)
        self.held.remove(name)


def parents_of(run: BlocksStored) -> list[tuple[int, int]]:
    """Each block hash of a run with the hash before it."""
    return list(zip(run.hashes, [run.parent, *run.hashes], strict=False))


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
