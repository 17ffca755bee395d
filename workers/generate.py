"""One completion in this process: the shortest way through the engine."""

from collections.abc import Iterator
from pathlib import Path

from workers.config import EngineConfig
from workers.engine.build import build_engine
from workers.request import GenerationRequest, SamplingParams
from workers.text_stream import TextStream
from workers.tokenizer import Tokenizer


def generate(model_dir: Path, prompt: str, sampling: SamplingParams) -> Iterator[str]:
    """Yield the completion of a prompt as it is generated.

    Raises:
        ModelError: the directory holds no model that can be served.
        RequestError: the prompt does not fit the model.
    """
    engine = build_engine(model_dir, EngineConfig()).engine
    tokenizer = Tokenizer(model_dir)
    engine.add_request(GenerationRequest("generate", tuple(tokenizer.encode(prompt)), sampling))
    text = TextStream(tokenizer, stop=())
    while engine.has_work:
        for output in engine.step():
            yield text.push(output.token_ids, last=output.finish_reason is not None)
