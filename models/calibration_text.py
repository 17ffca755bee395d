"""Write `models/tiny/calibration.txt.xz`: text for quantising the bundled model, from the files it was trained on.

    python models/calibration_text.py

Whole files of the standard library, in the order of their SHA-1, none of the held-out ones and none that has
`SHARED_LINES` lines in a row, blank ones aside, in common with them: the library repeats itself here and there.
"""

import hashlib
import lzma
from collections.abc import Iterable
from pathlib import Path

from models.train_tiny import read_library

NUM_BYTES = 110_000  # some 35,000 tokens
SHARED_LINES = 10
OUT = Path(__file__).resolve().parent / "tiny" / "calibration.txt.xz"


def line_runs(text: str, length: int = SHARED_LINES) -> set[tuple[str, ...]]:
    """All runs of so many lines that are not blank, without the space around them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {tuple(lines[start : start + length]) for start in range(len(lines) - length + 1)}


def calibration_text(train: Iterable[str], held_out: Iterable[str]) -> str:
    """The first files that share no run of lines with the held-out text, `NUM_BYTES` of them."""
    forbidden = line_runs("\n".join(held_out))
    chosen = ""
    for text in sorted(train, key=lambda text: hashlib.sha1(text.encode()).hexdigest()):
        if len(chosen.encode()) >= NUM_BYTES:
            break
        if not forbidden & line_runs(text):
            chosen += text
    return chosen


def main() -> None:
    text = calibration_text(*read_library()).encode()
    OUT.write_bytes(lzma.compress(text, preset=9))
    print(f"{OUT}: {len(text):,} bytes, SHA-256 {hashlib.sha256(text).hexdigest()}")


if __name__ == "__main__":
    main()
