"""Finding a model: a directory or a file as it is, or a Hub id that Hugging Face's own client downloads."""

import os
from fnmatch import fnmatch
from pathlib import Path

from workers.model_error import ModelError, one_line
from workers.weights.model_file import ModelFile, find_file

TINY_MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny"
FILES = ["*.json", "*.safetensors", "*.jinja"]
GGUF, LLAMA2_C = ".gguf", ".bin"  # models in a single file


def resolve_model_dir(model: str) -> Path:
    """The local directory of `model`, or the file that it names, or the one GGUF file of a directory.

    Raises ModelError where it is neither of them nor a model on the Hub.
    """
    try:
        path = Path(model).expanduser()
        is_directory = path.is_dir()
    except (OSError, RuntimeError) as error:  # RuntimeError: somebody's home, who has none
        raise ModelError(f"{model} cannot be looked for: {error}") from error
    if is_directory:
        return only_gguf(path.resolve())
    if path.suffix in (GGUF, LLAMA2_C):
        return path.absolute()
    from huggingface_hub import snapshot_download  # half a second to import, and not needed for a directory
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        said = one_line(error)
        raise ModelError(f"{model} is no directory here, and the Hugging Face Hub says: {said}") from error
    except OSError as error:  # the disk is full, or its cache may not be written
        raise ModelError(f"{model} cannot be downloaded: {one_line(error)}") from error


def only_gguf(model_dir: Path) -> Path:
    """The one GGUF file of a directory without a config.json; the directory itself where it is not such a one."""
    found = [] if (model_dir / "config.json").exists() else sorted(model_dir.glob(f"*{GGUF}"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ModelError(f"{model_dir} has several GGUF files ({names}); name the one that is meant")
    return found[0] if found else model_dir


def decides_tokens(name: str) -> bool:
    """Whether a file of this name has a say in the model's tokens."""
    return any(fnmatch(name, pattern) for pattern in FILES)


def model_files(model_dir: Path) -> list[ModelFile]:
    """All files that decide tokens, by name. Raises ModelError where one is no plain file, or not of this directory."""
    if model_dir.suffix == GGUF:
        return [find_file(model_dir.parent, model_dir.name)]
    if model_dir.suffix == LLAMA2_C:  # the file does not say everything
        return [find_file(model_dir.parent, model_dir.name), *model_files(model_dir.parent)]
    try:
        names = sorted(os.listdir(model_dir))
    except OSError as error:
        raise ModelError(f"{model_dir} cannot be listed: {error.strerror}") from error
    return [find_file(model_dir, name) for name in names if decides_tokens(name)]
