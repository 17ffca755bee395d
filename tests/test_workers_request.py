"""The nouns at the engine's door."""

from workers.request import FinishReason, RequestError


def test_a_request_error_is_a_value_error() -> None:
    assert issubclass(RequestError, ValueError)


def test_finish_reasons_are_the_words_of_the_openai_api() -> None:
    assert [FinishReason.STOP, FinishReason.LENGTH] == ["stop", "length"]
