"""C37: random mutations of model files. Under a manifest all are found; without one, none crashes or hangs a reader."""

import contextlib
import faulthandler
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.gguf_models import Kind, save_gguf
from tests.helpers import generate, request_of, small_engine
from tests.mutations import IN_PLACE, KINDS, draw_mutation, mutated
from tests.quantized_models import gptq, quantize_checkpoint, quantized_from
from tests.tiny_checkpoint import SHARDS, save_tiny_in_shards, save_tokenizer
from workers.models.spec import ModelError, read_checked, read_model_spec, spec_from_config
from workers.models.vocabulary import count_tokens
from workers.request import RequestError
from workers.tokenizer import Tokenizer
from workers.weights.checkpoint import Checkpoint, check_tensors
from workers.weights.manifest import verify_manifest
from workers.weights.model_dir import TINY_MODEL

HANGS_AFTER_S = 120.0
WEIGHTS = "model.safetensors"
# What of the bundled model is mutated, and how often of a hundred times.
SHARES = {
    "config.json": 40, "header": 35, "tensors": 10, "tokenizer.json": 3, "tokenizer_config.json": 5,
    "chat_template.jinja": 7,
}  # fmt: skip


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """End the process where a reader hangs, in whatever language."""
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def bundled(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))


class Bundled:
    """The bundled model, one mutation after another."""

    def __init__(self, model_dir: Path) -> None:
        self._dir = model_dir
        self._spec = read_model_spec(model_dir)
        self._good = {path.name: path.read_bytes() for path in model_dir.iterdir()}
        self._header_end = 8 + int.from_bytes(self._good[WEIGHTS][:8], "little")

    def try_one(self, seed: int) -> str:
        """What became of mutation number `seed`: refused at once, found by the manifest alone, or missed."""
        draw = random.Random(seed)
        (target,) = draw.choices(list(SHARES), list(SHARES.values()))
        name = WEIGHTS if target in ("header", "tensors") else target
        good = self._good[name]
        begin = self._header_end if target == "tensors" else 0
        end = self._header_end if target == "header" else len(good)
        mutation = draw_mutation(good, draw, begin, end, IN_PLACE if name == WEIGHTS else KINDS)
        with mutated(self._dir / name, mutation, good):
            if is_refused(lambda: self._read(target, mutation.at)):
                return f"{target} refused"
            return f"{target} found" if is_refused(lambda: verify_manifest(self._dir)) else f"{target} missed"

    def _read(self, target: str, at: int) -> None:
        """What a mutation of this kind has a say in."""
        if target.startswith("tokenizer"):
            count_tokens(self._dir)
        elif target == "config.json":
            check_tensors(Checkpoint(self._dir), read_checked(self._dir / target, spec_from_config))
        elif target in ("header", "tensors"):
            checkpoint = Checkpoint(self._dir)
            check_tensors(checkpoint, self._spec)
            name = next(name for name, tensor in checkpoint.tensors.items() if at < tensor.offset + tensor.num_bytes)
            checkpoint.read(name, checkpoint.tensors[name].shape)


def is_refused(read: Callable[[], object]) -> bool:
    """Whether the model is refused, in one line. Any other error than that is a bug of ours."""
    try:
        read()
    except ModelError as error:
        return len(str(error).splitlines()) == 1
    return False


def outcomes(model_dir: Path, count: int) -> Counter[str]:
    bundled = Bundled(model_dir)
    return Counter(bundled.try_one(seed) for seed in range(count))


def test_2000_mutations_of_the_bundled_model_are_all_found(bundled: Path) -> None:
    seen = outcomes(bundled, 2000)
    assert sum(seen.values()) == 2000
    assert not {outcome for outcome in seen if outcome.endswith("missed")}
    assert {f"{target} found" for target in ("config.json", "tensors", "tokenizer.json")} <= seen.keys()
    assert seen["header refused"] > 0.9 * (seen["header refused"] + seen["header found"])


@pytest.mark.long
def test_10000_mutations_of_the_bundled_model_are_all_found(bundled: Path) -> None:
    seen = outcomes(bundled, 10_000)
    print(dict(sorted(seen.items())))
    assert not {outcome for outcome in seen if outcome.endswith("missed")}


class Victim(NamedTuple):
    """A model of a few kilobytes without a manifest, and its files that are mutated."""

    model: Path
    files: list[Path]


@pytest.fixture
def plain(tmp_path: Path) -> Victim:
    """In shards, with an index and a tokenizer."""
    model_dir = save_tiny_in_shards(tmp_path / "model")
    save_tokenizer(model_dir, 32)
    (model_dir / "generation_config.json").write_text('{"eos_token_id": [1, 2]}', "utf-8")
    return Victim(model_dir, sorted(model_dir.iterdir()))


@pytest.fixture
def gguf_file(untied_dir: Path, tmp_path: Path) -> Victim:
    """Half of it is header."""
    path = save_gguf(tmp_path / "model.gguf", untied_dir, lambda name: Kind.Q4_0)
    return Victim(path, [path])


@pytest.fixture
def gptq_dir(untied_dir: Path, tmp_path: Path) -> Victim:
    """Quantised."""
    config: dict[str, object] = {"quant_method": "gptq", "bits": 4, "group_size": 16}
    model_dir, _ = quantize_checkpoint(untied_dir, tmp_path, gptq, config, lambda weight: quantized_from(weight, 16))
    return Victim(model_dir, [model_dir / "config.json", model_dir / WEIGHTS])


def served_or_refused(victim: Victim, count: int) -> Counter[str]:
    """Load mutations of a model, and run those that load. Half of them are in the first kilobytes: in headers."""
    good = {path: path.read_bytes() for path in victim.files}
    seen: Counter[str] = Counter()
    for seed in range(count):
        draw = random.Random(seed)
        path = draw.choice(victim.files)
        size = len(good[path])
        mutation = draw_mutation(good[path], draw, 0, draw.choice((size, min(size, 6000))))
        with mutated(path, mutation, good[path]):
            seen[f"{path.name} {'refused' if is_refused(lambda: serve(victim.model)) else 'served'}"] += 1
    return seen


def serve(model: Path) -> None:
    """Run a model to two tokens of its vocabulary."""
    built = small_engine(model, num_blocks=4)
    with contextlib.suppress(RequestError):  # a context of one token is a model as well
        tokens = generate(built.engine, [request_of("a", [1], 2)])["a"]
        assert max(tokens, default=0) < built.spec.num_tokens
    if (model / "tokenizer.json").exists():
        Tokenizer(model).encode("w1 w2")


def test_mutations_without_a_manifest_are_refused_or_served(plain: Victim) -> None:
    seen = served_or_refused(plain, 300)
    assert {f"{path.name} refused" for path in plain.files} <= seen.keys()
    assert {"config.json served", f"{SHARDS[0]} served"} <= seen.keys()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # infinite scales, which are refused
def test_mutations_of_a_gguf_file_are_refused_or_served(gguf_file: Victim) -> None:
    seen = served_or_refused(gguf_file, 100)
    assert set(seen) == {"model.gguf refused", "model.gguf served"}


def test_mutations_of_a_quantised_checkpoint_are_refused_or_served(gptq_dir: Victim) -> None:
    seen = served_or_refused(gptq_dir, 100)
    assert {"config.json refused", f"{WEIGHTS} refused", f"{WEIGHTS} served"} <= seen.keys()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("kind", ["plain", "gguf_file", "gptq_dir"])
def test_more_mutations_without_a_manifest_are_refused_or_served(kind: str, request: pytest.FixtureRequest) -> None:
    print(dict(sorted(served_or_refused(request.getfixturevalue(kind), 3000).items())))
