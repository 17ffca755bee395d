"""What the bits of GPU results depend on, as a name."""

from pathlib import Path

from kernels.triton_ops.arithmetic import sources_digest


def test_the_digest_changes_with_contents_and_names(tmp_path: Path) -> None:
    digests = []
    for name, text in (("a.py", "x"), ("a.py", "y"), ("b.py", "y")):
        for old in tmp_path.iterdir():
            old.unlink()
        (tmp_path / name).write_text(text)
        digests.append(sources_digest(tmp_path))
    assert len(set(digests)) == 3
