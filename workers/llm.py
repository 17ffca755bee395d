"""Generation in this process, without a server: the interface of vLLM's `LLM`."""

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from workers.config import engine_config
from workers.engine.build import build_engine
from workers.generation import Generation
from workers.generation_job import GenerationJob
from workers.prompts import Message, Prompt, naming_prompt, read_messages, read_prompt
from workers.request import GenerationRequest, RequestError, SamplingParams
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import resolve_model_dir

Sampling = SamplingParams | Sequence[SamplingParams] | None
Reader = Callable[[Any, Tokenizer], tuple[str | None, tuple[int, ...]]]


class LLM:
    """A model and an engine for it. To be used by one thread.

    Args:
        model: a model directory or a Hugging Face Hub id.
        options: of the engine, by the names in `workers.config`: block_size, memory_bytes,
            gpu_memory_utilization, max_num_seqs, max_num_batched_tokens, quantization, group_size, dtype, activations,
            numerics, device.

    Raises:
        ModelError: the directory holds no model that can be served.
        TypeError: there is no such option.
        ValueError: an option has a value that it cannot have.
    """

    def __init__(self, model: str | Path, **options: Any) -> None:
        config = engine_config(**options)
        model_dir = resolve_model_dir(str(model))
        self.engine = build_engine(model_dir, config).engine
        self._tokenizer = Tokenizer(model_dir)

    def generate(
        self, prompts: Prompt | Sequence[Prompt], sampling_params: Sampling = None, use_tqdm: bool = True
    ) -> list[Generation]:
        """Complete prompts, batched together, and return the results in their order.

        Args:
            prompts: text, or a mapping with `prompt` or `prompt_token_ids`; one or several.
            sampling_params: for all prompts, or one for each; `SamplingParams()` where None.
            use_tqdm: show a progress bar on standard error.

        Raises:
            RequestError: a prompt or its parameters cannot be served; it says which, and nothing has been run.
        """
        several = [prompts] if isinstance(prompts, str | Mapping) else prompts
        return self._run(self._jobs(several, sampling_params, read_prompt), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: Sampling = None,
        use_tqdm: bool = True,
    ) -> list[Generation]:
        """Answer conversations, one or several, each a list of messages with `role` and `content`; as `generate`."""
        one = bool(messages) and isinstance(messages[0], Mapping)
        return self._run(self._jobs([messages] if one else messages, sampling_params, read_messages), use_tqdm)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Generator[str]:
        """Yield the text of one completion as it is generated. Closing the iterator drops the request.

        Raises:
            RequestError: the prompt or its parameters cannot be served, or ask for several completions.
        """
        (job,) = self._jobs([prompt], sampling_params, read_prompt)
        if job.request.sampling.n > 1:
            raise RequestError(f"n is {job.request.sampling.n}; a stream has one completion")
        with closing(self._outputs([job])) as outputs:
            yield from (text for _, text in outputs if text)

    def reset_prefix_cache(self) -> None:
        """Forget what is cached of earlier prompts."""
        self.engine.reset_prefix_cache()
        self.engine.take_events()  # nobody follows this cache

    def _jobs(self, prompts: Sequence[Any], sampling_params: Sampling, read: Reader) -> list[GenerationJob]:
        if not isinstance(prompts, list | tuple):
            raise RequestError(f"prompts are {type(prompts).__name__}; give one prompt or a list of them")
        jobs = []
        for index, params in enumerate(one_for_each(sampling_params, len(prompts))):
            with naming_prompt(index):
                text, tokens = read(prompts[index], self._tokenizer)
            # Without a seed, one that no other request has: equal prompts get different completions.
            seeded = replace(params, seed=secrets.randbits(63)) if params.seed is None else params
            jobs.append(GenerationJob(GenerationRequest(str(index), tokens, seeded), self._tokenizer, text))
        return jobs

    def _run(self, jobs: Sequence[GenerationJob], use_tqdm: bool) -> list[Generation]:
        """Run jobs to their ends, with a progress bar of prompts and tokens per second."""
        start_s, num_tokens = time.perf_counter(), 0
        progress = tqdm(total=len(jobs), desc="Processed prompts", unit="prompt", disable=not use_tqdm)
        with closing(self._outputs(jobs)) as outputs, progress:
            for job, _ in outputs:
                if job.finished:
                    num_tokens += job.num_tokens
                    speed = num_tokens / (time.perf_counter() - start_s)
                    progress.set_postfix_str(f"{speed:.1f} tokens/s", refresh=False)
                    progress.update()
        return [job.result() for job in jobs]

    def _outputs(self, jobs: Sequence[GenerationJob]) -> Generator[tuple[GenerationJob, str]]:
        """Run jobs together; yields a job and its new text. However this ends, nothing is left in the engine."""
        if self.engine.has_work:
            raise RuntimeError("a stream of this LLM is still open; read it to its end or close it first")
        unfinished = {job.request.request_id: job for job in jobs}
        try:
            for index, job in enumerate(jobs):
                with naming_prompt(index):
                    self.engine.add_request(job.request)
            while self.engine.has_work:
                yield from self._step(unfinished)
        finally:
            for job in jobs:
                self.engine.abort(job.request.request_id)

    def _step(self, unfinished: dict[str, GenerationJob]) -> Iterator[tuple[GenerationJob, str]]:
        """One engine step. A job whose last completion ended at a stop string is taken from the engine."""
        outputs = self.engine.step()
        self.engine.take_events()  # nobody follows this cache; they must not pile up
        for output in outputs:
            job = unfinished.get(output.request_id)
            if job is None:
                continue
            text = job.take(output)
            if job.finished:
                del unfinished[output.request_id]
                self.engine.abort(output.request_id)
            yield job, text


def one_for_each(sampling_params: Sampling, num_prompts: int) -> list[SamplingParams]:
    """Parameters for every prompt. Raises RequestError where they are none, or neither one nor as many as prompts."""
    if sampling_params is None or isinstance(sampling_params, SamplingParams):
        return [sampling_params or SamplingParams()] * num_prompts
    if not isinstance(sampling_params, list | tuple) or not all(
        isinstance(params, SamplingParams) for params in sampling_params
    ):
        raise RequestError("sampling_params must be SamplingParams, or a list of them with one for each prompt")
    if len(sampling_params) != num_prompts:
        raise RequestError(
            f"there are {num_prompts} prompts and {len(sampling_params)} sampling_params; give one for all, or as many"
        )
    return list(sampling_params)
