"""The bundled model is calibrated on what it was trained on, never on what it is judged by."""

from models.calibration_text import NUM_BYTES, SHARED_LINES, calibration_text, line_runs
from workers.text_file import read_text_file
from workers.weights.model_dir import TINY_MODEL


def test_calibration_and_held_out_text_have_no_lines_in_a_row_in_common() -> None:
    calibration, held_out = (read_text_file(TINY_MODEL / f"{name}.txt.xz") for name in ("calibration", "heldout"))
    assert len(calibration.encode()) >= NUM_BYTES
    assert line_runs(calibration).isdisjoint(line_runs(held_out))
    assert len(line_runs(calibration)) > 2000


def test_a_copied_passage_would_be_found() -> None:
    """Even where it is indented otherwise, and has blank lines in between."""
    held_out = read_text_file(TINY_MODEL / "heldout.txt.xz")
    lines = held_out.splitlines()[500 : 500 + 2 * SHARED_LINES]
    copied = "x = 1\n" + "\n\n".join("    " + line for line in lines)
    assert not line_runs(copied).isdisjoint(line_runs(held_out))


def test_files_with_held_out_passages_are_left_out() -> None:
    def file(name: str, length: int = 20) -> str:
        return "".join(f"{name} = {line}\n" for line in range(length))

    chosen = calibration_text([file("a"), file("b") + file("c", SHARED_LINES), file("d", 2)], [file("c")])
    assert file("a") in chosen
    assert "b = 1" not in chosen
    assert file("d", 2) in chosen
