"""The `raydix` command as a newcomer meets it: help, a completion without Ray, and errors that say what to do."""

import io
import socket
from pathlib import Path

import pytest

from cluster.cli import main, make_parser, overridden
from cluster.config import load_config, parse_config


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "raydix serve" in shown
    assert "raydix generate --prompt" in shown


def test_generate_continues_the_prompt_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "--prompt", "import os\n", "--max-tokens", "8"]
    texts = []
    for _ in range(2):
        assert main(arguments) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert texts[0].strip()


def shown_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["generate", "--max-tokens", "12", "--ignore-eos", *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_several_prompts_are_continued_one_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    alone = [shown_by(capsys, "--prompt", prompt) for prompt in ("import os\n", "def f(")]
    assert shown_by(capsys, "--prompt", "import os\n", "--prompt", "def f(") == "".join(alone)


def test_without_a_prompt_standard_input_is_continued(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("import os\n"))
    assert shown_by(capsys) == shown_by(capsys, "--prompt", "import os\n")


OPTIONS = [
    ["--temperature", "1.5", "--seed", "4"],
    ["--repetition-penalty", "1.9"],
    ["--presence-penalty", "2"],
    ["--frequency-penalty", "2"],
    ["--stop", "\n", "--stop", ","],
]
CUTS = [["--top-k", "1"], ["--top-p", "0.01"], ["--min-p", "1"]]


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_changes_the_completion(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ["--prompt", "import os\nimport sys\n"]
    assert shown_by(capsys, *prompt, *options) != shown_by(capsys, *prompt)


@pytest.mark.parametrize("options", CUTS)
def test_a_cut_to_the_likeliest_token_takes_it(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    prompt = ["--prompt", "import os\nimport sys\n"]
    assert shown_by(capsys, *prompt, "--temperature", "1.5", *options) == shown_by(capsys, *prompt)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--prompt", "x", "--min-tokens", "65"], "min_tokens is 65"),
        (["generate", "--prompt", "x", "--stop", ""], "stop is"),
        (["generate", "--prompt", "x", "--max-tokens", "0"], "max_tokens is 0"),
        (["generate", "--prompt", "x", "--max-tokens", "5000"], "context is 2048 tokens"),
        (["generate", "--prompt", "x", "--model", "."], "config.json cannot be read"),
        (["serve", "--port", "99999"], "http.port"),
        (["serve", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("raydix: ")
    assert says in shown.err
    assert "Traceback" not in shown.err


def test_an_unknown_key_in_the_configuration_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "cluster.yaml"
    config.write_text("http: {prot: 1}\n")
    assert main(["serve", "--config", str(config)]) == 2
    assert "http.prot: no such key" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert "choose another with --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "pools: {unified: {replicas: 2}}\n",
        "pools: {decode: {autoscaling: {max_replicas: 2}}}\n",
        "http: {port: 1, proxy: serve}\n",
        "",
    ],
)
def test_options_override_a_file_and_leave_the_rest_as_it_is(text: str, tmp_path: Path) -> None:
    """Pools that exclude each other's keys too."""
    config = tmp_path / "cluster.yaml"
    config.write_text(text)
    options = make_parser().parse_args(["serve", "--config", str(config), "--port", "8123", "--dashboard-port", "8300"])
    read = load_config(config)
    merged = parse_config(overridden(read.model_dump(exclude_unset=True), options))
    assert (merged.http.port, merged.dashboard_port) == (8123, 8300)
    assert merged.pools == read.pools
    assert (merged.http.proxy, merged.model) == (read.http.proxy, read.model)


def test_a_cluster_of_one_pool_comes_as_far_as_its_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "cluster.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config.write_text(f"pools: {{unified: {{replicas: 2}}}}\nhttp: {{port: {taken.getsockname()[1]}}}\n")
        assert main(["serve", "--config", str(config)]) == 2
    assert "choose another with --port" in capsys.readouterr().err
