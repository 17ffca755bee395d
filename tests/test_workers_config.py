"""Engine configuration that cannot work is refused when it is made, with the numbers that clash."""

from dataclasses import FrozenInstanceError

import pytest

from workers.config import CacheConfig, EngineConfig, SchedulerConfig, WeightConfig, engine_config


def test_a_block_holds_at_least_one_token() -> None:
    with pytest.raises(ValueError, match="block_size is 0; it must be at least 1"):
        CacheConfig(block_size=0)


def test_the_pool_has_as_many_blocks_as_fit() -> None:
    config = CacheConfig(block_size=4)
    assert config.num_blocks(pool_bytes=1000, bytes_per_token=10) == 25
    assert config.num_blocks(pool_bytes=1000, bytes_per_token=11) == 22


def test_a_pool_without_a_single_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pool of 63 bytes holds no block of 4 tokens at 16 bytes each"):
        CacheConfig(block_size=4).num_blocks(pool_bytes=63, bytes_per_token=16)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_of_the_gpu_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match=f"gpu_memory_utilization is {share}; it must be above 0 and at most 1"):
        CacheConfig(gpu_memory_utilization=share)


def test_a_whole_gpu_may_be_taken() -> None:
    assert CacheConfig(gpu_memory_utilization=1.0).gpu_memory_utilization == 1


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


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("quantization", "int4, none"), ("dtype", "bfloat16, float16, float32"), ("numerics", "strict, fast")],
)
def test_a_choice_that_does_not_exist_is_refused(name: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 'awq'; it must be one of {allowed}"):
        engine_config(**{name: "awq"})


def test_options_by_name_find_their_part() -> None:
    config = engine_config(block_size=8, max_num_seqs=3, dtype="float32", device="cpu")
    assert config == EngineConfig(
        CacheConfig(block_size=8), SchedulerConfig(max_num_seqs=3), WeightConfig(dtype="float32", device="cpu")
    )
    assert engine_config() == EngineConfig()


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(
        TypeError, match="no such engine option: gpu, swap; there are block_size, memory_bytes, gpu_mem"
    ):
        engine_config(block_size=8, swap=1, gpu=2)
