"""A bug that another engine had, put into ours on purpose, and the scenario that must notice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.engine_driver import assert_nothing_left
from tests.helpers import drain
from tests.witness import WitnessEngine, expected_tokens
from workers.request import GenerationRequest, RequestOutput


@dataclass(frozen=True)
class SeededBug:
    """A way for the engine to go wrong.

    Attributes:
        scenario: what happens to a healthy engine; raises where the outcome is not right.
        seed: puts the bug into the smallest method that can carry it.
        noticed: what the scenario, or a check inside it, then says.
    """

    scenario: Callable[[], None]
    seed: Callable[[pytest.MonkeyPatch], None]
    noticed: str


def serve(engine: WitnessEngine, requests: Sequence[GenerationRequest]) -> list[RequestOutput]:
    """Run requests together; each completion is as expected."""
    for request in requests:
        engine.add_request(request)
    outputs = drain(engine.step, engine)
    for request in requests:
        for index in range(request.sampling.n):
            assert tokens_of(outputs, request, index) == expected_tokens(request, index), "a wrong token"
    return outputs


def serve_to_the_last_block(engine: WitnessEngine, requests: Sequence[GenerationRequest]) -> None:
    """The same, and nothing is left behind."""
    serve(engine, requests)
    assert_nothing_left(engine)


def tokens_of(outputs: Sequence[RequestOutput], request: GenerationRequest, index: int = 0) -> list[int]:
    """The tokens of one completion."""
    mine = [output for output in outputs if (output.request_id, output.index) == (request.request_id, index)]
    return [token for output in mine for token in output.token_ids]
