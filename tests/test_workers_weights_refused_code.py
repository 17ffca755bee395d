"""Nothing in a model directory can run: pickles are never opened, Python files never imported."""

import contextlib
import json
import pickle
from pathlib import Path

import pytest

from tests.helpers import edit_json
from tests.opened_files import opened_files
from tests.tiny_checkpoint import SINGLE, save_tiny, save_tokenizer
from workers.config import engine_config
from workers.engine.build import build_engine
from workers.llm import LLM
from workers.models.spec import ModelError
from workers.tokenizer import Tokenizer
from workers.weights.model_dir import resolve_model_dir

PICKLES = ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "training_args.bin", "optimizer.pkl"]
AUTO_MAP = {
    "AutoConfig": "evil.Config",
    "AutoModelForCausalLM": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
}


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._witness,)


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """A file that is there once anything of the model has run."""
    return tmp_path / "it ran"


@pytest.fixture
def trapped(tmp_path: Path, witness: Path) -> Path:
    """A model that can be served, with code of every kind beside it."""
    model_dir = save_tiny(tmp_path / "model")
    save_tokenizer(model_dir, 32)
    for name in PICKLES:
        (model_dir / name).write_bytes(pickle.dumps(Bomb(witness)))
    for name in ("evil.py", "__init__.py", "conftest.py", "sitecustomize.py"):
        (model_dir / name).write_text(f"open({str(witness)!r}, 'w')\nclass Config: ...\n", "utf-8")
    edit_json(model_dir / "config.json", auto_map=AUTO_MAP, trust_remote_code=True)
    return model_dir


def test_the_traps_work(trapped: Path, witness: Path) -> None:
    with opened_files(trapped) as opened:
        pickle.loads((trapped / PICKLES[0]).read_bytes())
    assert witness.exists()
    assert opened == {PICKLES[0]}


def test_a_model_is_served_without_its_pickles_and_its_code(trapped: Path, witness: Path) -> None:
    """S3, S4: `auto_map` has no say."""
    with opened_files(trapped) as opened:
        texts = LLM(trapped, group_size=16, device="cpu").generate("w1 w2", use_tqdm=False)
    assert texts
    assert not witness.exists()
    assert {"config.json", SINGLE, "tokenizer.json"} <= opened
    assert {name for name in opened if not name.endswith((".json", ".safetensors", ".jinja"))} == set()


@pytest.mark.parametrize("known", [True, False])
def test_a_tokenizer_that_wants_its_own_code_does_not_get_it(trapped: Path, witness: Path, known: bool) -> None:
    settings = {"auto_map": AUTO_MAP, "tokenizer_class": "PreTrainedTokenizerFast" if known else "EvilTokenizer"}
    (trapped / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    with contextlib.suppress(ModelError):
        Tokenizer(trapped)
    assert not witness.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_a_model_of_pickles_alone_is_refused_unopened(trapped: Path, witness: Path, name: str) -> None:
    (trapped / SINGLE).unlink()
    with opened_files(trapped) as opened, pytest.raises(ModelError, match=rf"{SINGLE} is missing.*Only safetensors"):
        build_engine(trapped, engine_config(device="cpu"))
    assert name not in opened
    assert not witness.exists()


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_is_named_itself_is_refused(trapped: Path, witness: Path, name: str) -> None:
    """`.bin` is llama2.c's ending too, whose header says how long the file must be."""
    with pytest.raises(ModelError):
        build_engine(resolve_model_dir(str(trapped / name)), engine_config(device="cpu"))
    assert not witness.exists()
