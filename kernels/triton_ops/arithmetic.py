"""What the bits of results computed in Triton depend on."""

import hashlib
from pathlib import Path

import torch


def arithmetic(device: torch.device) -> str:
    """Names the GPU's generation and the kernels, tables of tiles and splits included: strict numerics are the same on
    two machines only where this is."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"triton-sm{major}{minor}-{sources_digest()[:16]}"


def sources_digest(folder: Path = Path(__file__).parent) -> str:
    """SHA-256 over names and contents of a folder's Python files, in hexadecimal; of the kernels by default."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
