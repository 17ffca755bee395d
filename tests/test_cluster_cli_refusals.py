"""A model that cannot be served, as whoever names it on the command line meets it: exit 2, one line, no traceback."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.cli import main
from cluster.haproxy import free_ports
from tests.helpers import Tensors, edit_json, edit_tensors
from tests.server import REPOSITORY, assert_none_left
from tests.tiny_checkpoint import NORM, SINGLE, save_tiny, save_tokenizer

COMMAND = [sys.executable, "-c", "import sys; from cluster.cli import main; sys.exit(main())"]
NOT_NUMBERS = f"{SINGLE}: {NORM} holds 2 values that are NaN or infinity, the first at [3]; the checkpoint is damaged"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Sound, but for what a test does to it."""
    model_dir = save_tiny(tmp_path / "model", hidden_size=64, intermediate_size=64)
    save_tokenizer(model_dir, 32)
    return model_dir


def spoil(model: Path) -> None:
    def not_numbers(tensors: Tensors) -> None:
        tensors[NORM][3:5] = float("nan")

    edit_tensors(model, not_numbers)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda model: os.truncate(model / SINGLE, 5000), f"{SINGLE} is damaged: its tensors end at byte"),
    (lambda model: (model / SINGLE).rename(model / "pytorch_model.bin"), f"{SINGLE} is missing"),
    (lambda model: edit_json(model / "config.json", num_hidden_layers=10**12), "num_hidden_layers is 1000000000000"),
    (lambda model: pipe(model / "generation_config.json"), "generation_config.json is no regular file"),
    (lambda model: save_tokenizer(model, 33), "the tokenizer has 33 tokens, but vocab_size is 32"),
    (lambda model: (model / "tokenizer.json").write_text("{"), "tokenizer.json is no JSON"),
    (lambda model: (model / "manifest.json").write_text("{}"), "manifest.json is no manifest that raydix writes"),
    (lambda model: (model / "config.json").unlink(), "config.json cannot be read: No such file"),
]


@pytest.mark.parametrize(("damage", "says"), BROKEN, ids=[says for _, says in BROKEN])
def test_generate_says_what_is_wrong(
    model: Path, damage: Callable[[Path], object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(model)
    assert main(["generate", "--prompt", "w1", "--model", str(model)]) == 2
    one_line(capsys.readouterr().err, says)


def test_serve_says_what_is_wrong_before_it_starts_ray(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(model / SINGLE, 5000)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        assert main(["serve", "--model", str(model), "--port", str(free_ports(1)[0])]) == 2
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)
    shown = capsys.readouterr()
    one_line(shown.err, f"{SINGLE} is damaged")
    assert "starting Ray" not in shown.out


def one_line(error: str, says: str) -> None:
    assert error.startswith("raydix: ")
    assert says in error
    assert error.count("\n") == 1


def test_a_process_of_its_own_ends_with_2_and_one_line(model: Path) -> None:
    spoil(model)
    ended = run("generate", "--prompt", "w1", "--model", str(model))
    assert (ended.returncode, ended.stdout) == (2, "")
    one_line(ended.stderr, NOT_NUMBERS)


@pytest.mark.parametrize(
    ("deployments", "said"),
    [
        ({"decode": "no CPUs", "prefill": "ray::init()\nworkers.model_error.ModelError: x: bad\n\nmore"}, "x: bad"),
        ({"decode": "no CPUs"}, ""),
        (None, ""),
    ],
)
def test_what_a_replica_says_of_its_model_is_found(
    deployments: dict[str, str] | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import local  # imports Ray

    status = {name: SimpleNamespace(message=message) for name, message in (deployments or {}).items()}
    applications = {} if deployments is None else {local.APP_NAME: SimpleNamespace(deployments=status)}
    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications=applications))
    assert local.refused_model() == said


@pytest.mark.ray
@pytest.mark.long
def test_serve_ends_with_what_its_workers_say(model: Path) -> None:
    """Only they read the tensors. Ray logs more above."""
    spoil(model)
    place = {"HOME": str(model.parent), "RAY_TMPDIR": str(model.parent)}
    ended = run("serve", "--model", str(model), "--port", str(free_ports(1)[0]), cwd=model.parent, **place)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("raydix: the cluster did not come up: ")
    assert NOT_NUMBERS in last
    assert_none_left(model.parent)


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The command, where it finds the modules of this checkout."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    return subprocess.run([*COMMAND, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)
