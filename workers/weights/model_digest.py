"""One name for everything that decides a model's tokens."""

import hashlib
from pathlib import Path

from workers.weights.manifest import verified_digests


def model_digest(model_dir: Path) -> str:
    """SHA-256 over names and contents of all files that decide the model's tokens.

    Every file is hashed once, for this and for the manifest: raises ModelError where the directory has one and a file
    is not what it says.
    """
    digest = hashlib.sha256()
    for name, contents in sorted(verified_digests(model_dir).items()):
        digest.update(f"{name} {contents}\n".encode())
    return digest.hexdigest()
