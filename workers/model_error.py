"""The one error that a bad model directory ends in."""


class ModelError(ValueError):
    """The model directory cannot be served; the message says what is wrong with which file, and what to do."""


def one_line(error: BaseException) -> str:
    """What another library says, without its line breaks."""
    return " ".join(str(error).split())
