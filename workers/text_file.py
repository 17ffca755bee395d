"""A text file, compressed with xz or not."""

import lzma
from pathlib import Path

from workers.validation import RequestError


def read_text_file(path: Path) -> str:
    """The text of a UTF-8 file; of one whose name ends in .xz, what is compressed in it.

    Raises:
        RequestError: it cannot be read, is no such text, or is empty.
    """
    try:
        data = path.read_bytes()
        text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf-8")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read as text: {error}") from error
    if not text:
        raise RequestError(f"{path} is empty; give a text of some kilobytes")
    return text
