"""Engine configuration that cannot work is refused when it is made, with the numbers that clash."""

from dataclasses import FrozenInstanceError

import pytest

from workers.config import CacheConfig, EngineConfig, SchedulerConfig


def test_a_block_holds_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="block_size is 0; it must be at least 1"):
        CacheConfig(block_size=0)


def test_the_pool_has_as_many_blocks_as_fit() -> None:
    config = CacheConfig(block_size=4, memory_bytes=1000)
    assert config.num_blocks(bytes_per_token=10) == 25
    assert config.num_blocks(bytes_per_token=11) == 22


def test_a_pool_without_a_single_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pool of 63 bytes holds no block of 4 tokens at 16 bytes each"):
        CacheConfig(block_size=4, memory_bytes=63).num_blocks(bytes_per_token=16)


@pytest.mark.parametrize(("seqs", "tokens"), [(0, 10), (-1, 10), (11, 10), (1, 0)])
def test_every_running_sequence_needs_a_token_of_the_budget(seqs: int, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"max_num_seqs {seqs} must be .* max_num_batched_tokens {tokens}"):
        SchedulerConfig(seqs, tokens)


def test_as_many_sequences_as_tokens_are_allowed() -> None:
    assert SchedulerConfig(10, 10).max_num_seqs == 10


def test_a_configuration_never_changes() -> None:
    config = EngineConfig()
    with pytest.raises(FrozenInstanceError):
        config.cache = CacheConfig(8)  # type: ignore[misc]
