"""Finding a model: a directory as it is, or a Hub id that Hugging Face's own client downloads."""

import hashlib
from pathlib import Path

from workers.model_error import ModelError, one_line
from workers.weights.model_file import ModelFile, find_file

TINY_MODEL = Path(__file__).resolve().parents[2] / "models" / "tiny"
FILES = ["*.json", "*.safetensors", "*.jinja"]


def resolve_model_dir(model: str) -> Path:
    """The local directory of `model`. Raises ModelError where it is neither a directory nor a model on the Hub."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    from huggingface_hub import snapshot_download  # half a second to import, and not needed for a directory
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        said = one_line(error)
        raise ModelError(f"{model} is no directory here, and the Hugging Face Hub says: {said}") from error
    except OSError as error:  # the disk is full, or its cache may not be written
        raise ModelError(f"{model} cannot be downloaded: {one_line(error)}") from error


def model_digest(model_dir: Path) -> str:
    """SHA-256 over names and contents of all files that decide the model's tokens."""
    digest = hashlib.sha256()
    for file in model_files(model_dir):
        digest.update(f"{file.path.name} {file.sha256()}\n".encode())
    return digest.hexdigest()


def model_files(model_dir: Path) -> list[ModelFile]:
    """All files that decide the model's tokens, by name. Raises ModelError where one is none, or not of this place."""
    return [
        find_file(model_dir, name) for name in sorted({p.name for pattern in FILES for p in model_dir.glob(pattern)})
    ]
