"""C37: random mutations of model files. Under a manifest all are found; without one, none crashes or hangs a reader."""

import contextlib
import faulthandler
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import edit_json, generate, request_of, small_engine
from tests.mutations import IN_PLACE, KINDS, draw_mutation, mutated
from tests.tiny_checkpoint import INDEX, SHARDS, save_tiny_in_shards, save_tokenizer
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
SMALL_FILES = ("config.json", "generation_config.json", INDEX, "tokenizer.json", "tokenizer_config.json", *SHARDS)


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


def served_or_refused(model_dir: Path, count: int) -> Counter[str]:
    """Load mutations of a model without a manifest, and where they load, run them."""
    good = {name: (model_dir / name).read_bytes() for name in SMALL_FILES}
    seen: Counter[str] = Counter()
    for seed in range(count):
        draw = random.Random(seed)
        name = draw.choice(SMALL_FILES)
        mutation = draw_mutation(good[name], draw, 0, len(good[name]))
        with mutated(model_dir / name, mutation, good[name]):
            seen[f"{name} {'refused' if is_refused(lambda: serve(model_dir)) else 'served'}"] += 1
    return seen


def serve(model_dir: Path) -> None:
    """Run a model to two tokens of its vocabulary."""
    built = small_engine(model_dir, num_blocks=4)
    with contextlib.suppress(RequestError):  # a context of one token is a model as well
        tokens = generate(built.engine, [request_of("a", [1], 2)])["a"]
        assert max(tokens, default=0) < built.spec.num_tokens
    Tokenizer(model_dir).encode("w1 w2")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    model_dir = save_tiny_in_shards(tmp_path / "model")
    save_tokenizer(model_dir, 32)
    edit_json(model_dir / "config.json", eos_token_id=1)
    (model_dir / "generation_config.json").write_text('{"eos_token_id": [1, 2]}', "utf-8")
    return model_dir


def test_mutations_without_a_manifest_are_refused_or_served(small: Path) -> None:
    seen = served_or_refused(small, 300)
    assert {f"{name} refused" for name in SMALL_FILES} <= seen.keys()
    assert {"config.json served", f"{SHARDS[0]} served"} <= seen.keys()


@pytest.mark.long
def test_more_mutations_without_a_manifest_are_refused_or_served(small: Path) -> None:
    print(dict(sorted(served_or_refused(small, 5000).items())))
