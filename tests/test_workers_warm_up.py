"""workers/engine/warm_up.py: an engine is as new afterwards."""

from pathlib import Path

import pytest

from tests.helpers import generate, num_leaked_blocks, small_engine
from tests.pair import requests
from workers.engine.warm_up import warm_up

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("max_num_batched_tokens", [7, 64, 2048])
def test_nothing_is_left_of_it(untied_dir: Path, max_num_batched_tokens: int) -> None:
    expected = generate(small_engine(untied_dir).engine, requests())
    engine = small_engine(untied_dir, max_num_batched_tokens=max_num_batched_tokens).engine
    full_step_s = warm_up(engine, max_num_batched_tokens)
    assert 0 < full_step_s < 60
    assert (engine.take_events(), list(engine.kv.cache.snapshot()), num_leaked_blocks(engine)) == ([], [], 0)
    assert engine.kv.pool.num_free == engine.kv.pool.num_blocks
    assert generate(engine, requests()) == expected


def test_a_model_of_short_contexts_has_a_short_one(untied_dir: Path) -> None:
    """The pool bounds the context: 8 blocks of 4 tokens."""
    engine = small_engine(untied_dir, num_blocks=8).engine
    assert warm_up(engine, 2048) > 0
    assert engine.num_computed_tokens <= 2 * 31
