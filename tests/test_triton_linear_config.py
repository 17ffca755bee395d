"""How linear products are cut: what bits depend on is fixed by the weight, and every launch fits a GPU."""

from hypothesis import given
from hypothesis import strategies as st

from kernels.triton_ops.linear_config import MIN_STEPS, dense_config, int4_config, splits_for

SHAPES = st.tuples(st.integers(1, 200_000), st.integers(1, 400).map(lambda steps: 128 * steps))


@given(SHAPES, st.sampled_from([64, 128]), st.integers(0, 5000), st.integers(0, 5000))
def test_ranges_do_not_depend_on_the_number_of_rows(shape: tuple[int, int], step: int, few: int, many: int) -> None:
    for config in (int4_config, dense_config):
        assert config(shape, step, few).num_splits == config(shape, step, many).num_splits


@given(SHAPES, st.sampled_from([64, 128]))
def test_ranges_are_long_enough(shape: tuple[int, int], step: int) -> None:
    splits = splits_for(shape, step)
    assert splits == 1 or shape[1] // step // splits >= MIN_STEPS


@given(SHAPES, st.integers(1, 5000), st.booleans())
def test_a_program_takes_all_rows_up_to_its_most(shape: tuple[int, int], num_rows: int, gated: bool) -> None:
    config = int4_config(shape, 128, num_rows, gated=gated)
    assert config.num_rows >= min(num_rows, 64)
    assert config.num_rows in (16, 32, 64, 128)
    assert config.num_outputs // config.num_warps in (16, 32)
    assert config.num_splits == 1 or not gated
    assert config.num_partials == (1 if config.whole else config.num_splits)


def test_the_layers_of_llama_3_8b_fill_132_sms() -> None:
    """Programs for one row: two an SM or so, and no more partial sums than that needs."""
    splits = {shape: splits_for(shape, 128) for shape in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336))}
    assert list(splits.values()) == [4, 4, 1, 8]
    for shape, ranges in splits.items():
        config = int4_config(shape, 128, 1)
        assert shape[0] // config.num_outputs * ranges >= 132


def test_many_rows_leave_no_partial_sums() -> None:
    for shape in ((6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)):
        assert int4_config(shape, 128, 2048).num_partials == 1
