"""A completion ends at a token that stops it, never before min_tokens, and says why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import drain, num_leaked_blocks, request_of
from tests.witness import EOS, WitnessEngine, expected_tokens
from tests.witness_runner import VOCAB_SIZE
from workers.request import FinishReason, GenerationRequest

PROMPT = [7, 8, 9]
FREE = expected_tokens(request_of("free", PROMPT, 20, ignore_eos=True))


def complete(request: GenerationRequest, *, ahead: bool = False) -> tuple[list[int], FinishReason | None]:
    engine = WitnessEngine(ahead=ahead)
    engine.add_request(request)
    outputs = drain(engine.step, engine)
    assert num_leaked_blocks(engine) == 0
    assert all(output.finish_reason is None for output in outputs[:-1])
    return [token for output in outputs for token in output.token_ids], outputs[-1].finish_reason


def test_a_stop_token_ends_the_completion_and_is_its_last_token() -> None:
    """Wherever it comes, and also where the model's own end is ignored."""
    for token in set(FREE):
        request = request_of("a", PROMPT, 20, ignore_eos=True, stop_token_ids=[token])
        assert complete(request) == (FREE[: FREE.index(token) + 1], FinishReason.STOP)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("min_tokens", range(1, 6))
def test_nothing_stops_before_min_tokens(min_tokens: int, ahead: bool) -> None:
    """The witness draws what it likes: here the engine itself must not stop."""
    request = request_of("a", PROMPT, 5, stop_token_ids=set(FREE), min_tokens=min_tokens)
    assert complete(request, ahead=ahead) == (FREE[:min_tokens], FinishReason.STOP)


def test_max_tokens_ends_what_nothing_stops() -> None:
    unseen = min(set(range(1, VOCAB_SIZE)) - set(FREE))
    request = request_of("a", PROMPT, 20, ignore_eos=True, stop_token_ids=[unseen], min_tokens=20)
    assert complete(request) == (FREE, FinishReason.LENGTH)


@given(
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=9),
    st.sets(st.integers(0, VOCAB_SIZE - 1), max_size=8),
    st.integers(0, 6),
    st.booleans(),
    st.booleans(),
)
def test_any_mixture_of_them(prompt: list[int], stop: set[int], min_tokens: int, ignore_eos: bool, ahead: bool) -> None:
    request = request_of("a", prompt, 6, stop_token_ids=sorted(stop), min_tokens=min_tokens, ignore_eos=ignore_eos)
    tokens, reason = complete(request, ahead=ahead)
    assert tokens == expected_tokens(request)
    stops = tokens[-1] in stop or (tokens[-1] == EOS and not ignore_eos)
    assert reason is (FinishReason.STOP if stops and len(tokens) >= min_tokens else FinishReason.LENGTH)
