"""Everything there is to run on a GPU, with a time limit for each part: a part that hangs or dies loses itself alone.

python -m bench.gpu_run [--out DIR] [--budget SECONDS]

The tests of the kernels and of the engine on a GPU, each file in a process of its own; the kernels' times, each
operation in a process of its own; the engine's. Needs torch, triton, transformers, pytest, hypothesis, msgpack,
safetensors and numpy, and neither Ray nor a network. Writes logs, kernels.json and engine.json under DIR and prints a
table of what was run and how the goals stand. The exit status is 1 where any part failed.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.goals import summary
from bench.report import ROOT, print_table, read_rows

BUDGET_S = 460
STAGE_ENDS = (0.35, 0.75, 1.0)  # of the budget: tests, kernels, engine; what one leaves over is the later ones'
FILE_LIMIT_S = 120.0  # of the tests of one kernel
LIST_LIMIT_S = 60.0
CORES_OF_A_TEST = 2  # it compiles half of the time, in one thread
KEPT_S = 15.0  # for each later part of a stage, unless that were more than half of what is left


@dataclass(frozen=True)
class Part:
    """One command."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """How a part ended.

    Attributes:
        status: of the process; None where it was stopped at its limit.
    """

    part: Part
    status: int | None
    seconds: float
    output: str

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.status is None:
            return "TIMED OUT"
        return "ok" if self.status == 0 else f"FAILED ({self.status})"

    @property
    def last_line(self) -> str:
        """What it said at the end: pytest's counts, say."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1][:80] if lines else ""


def run_part(part: Part, limit_s: float) -> Result:
    """Run `python ARGUMENTS` from the repository's root and stop it, children and all, at its limit."""
    begin_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *part.arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    status: int | None = None
    try:
        output, _ = process.communicate(timeout=max(limit_s, 1.0))
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()  # what it had printed
    finally:
        if process.poll() is None:  # interrupted
            os.killpg(process.pid, signal.SIGKILL)
    result = Result(part, status, time.monotonic() - begin_s, output)
    print(f"{part.name}: {result.verdict} after {result.seconds:.0f} s", file=sys.stderr, flush=True)
    return result


def parts_of_tests(pattern: str) -> list[Part]:
    """One for each test file. Warnings of another version of a library are no errors here."""
    options = ("-m", "pytest", "-q", "-rfE", "--tb=short", "-W", "default", "-p", "no:cacheprovider")
    files = sorted((ROOT / "tests").glob(pattern))
    return [Part(file.stem, (*options, file.relative_to(ROOT).as_posix())) for file in files]


def kernel_parts(out: Path) -> list[Part]:
    """One for each operation: the first word of its cases' names. Without a list, one for all."""
    listed = run_part(Part("list of kernels", ("-m", "bench.kernels", "--list")), LIST_LIMIT_S)
    operations = dict.fromkeys(line.split()[0] for line in listed.output.splitlines() if line.strip())
    common = ("-m", "bench.kernels", "--out", str(out))
    if listed.status != 0 or not operations:
        return [Part("kernels", common)]
    return [Part(f"kernels: {name}", (*common, "--only", f"{name} ")) for name in operations]


def run_in_turn(parts: Sequence[Part], deadline_s: float) -> list[Result]:
    """One after another; each may take what is left but for `KEPT_S` for each that follows."""
    results = []
    for following, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
        left_s = deadline_s - time.monotonic()
        kept_s = min(KEPT_S * following, left_s / 2)
        results.append(run_part(part, left_s - kept_s))
    return results


def run_side_by_side(parts: Sequence[Part], deadline_s: float, workers: int) -> list[Result]:
    """As many at once as there are workers."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda part: run_part(part, min(deadline_s - time.monotonic(), FILE_LIMIT_S)), parts))


def run_all(out: Path, budget_s: float) -> list[Result]:
    """All parts, their logs written stage by stage."""
    tests_end_s, kernels_end_s, end_s = (time.monotonic() + share * budget_s for share in STAGE_ENDS)
    workers = max((os.cpu_count() or 1) // CORES_OF_A_TEST, 1)
    longest_first = [*parts_of_tests("test_gpu_llm.py"), *parts_of_tests("test_triton_*.py")]
    tests = run_side_by_side(longest_first, tests_end_s, workers)
    tests += run_in_turn(parts_of_tests("test_gpu_[!l]*.py"), tests_end_s)  # alone: they look at the GPU's free memory
    write_log(out / "tests.log", tests)
    kernels = run_in_turn(kernel_parts(out / "kernels.json"), kernels_end_s)
    write_log(out / "kernels.log", kernels)
    engine = run_in_turn([Part("engine", ("-m", "bench.gpu_engine", "--out", str(out / "engine.json")))], end_s)
    write_log(out / "engine.log", engine)
    return tests + kernels + engine


def write_log(path: Path, results: Sequence[Result]) -> None:
    """What the parts printed, one after another."""
    path.write_text("".join(f"==== {r.part.name}: {r.verdict}\n{r.output}\n" for r in results), "utf-8")


def entry(result: Result) -> dict[str, str]:
    """A line of the table."""
    return {
        "part": result.part.name,
        "result": result.verdict,
        "seconds": f"{result.seconds:.0f}",
        "last line": result.last_line,
    }


def main() -> int:
    """Parse the command line, run, and print the tables; the exit status is 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "h200", metavar="DIR")
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="SECONDS", help=f"for all ({BUDGET_S})")
    options = parser.parse_args()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("kernels.json", "engine.json"):
        (out / name).unlink(missing_ok=True)  # figures of an earlier run must not stand in for a part that hangs
    results = run_all(out, options.budget)
    print_table([entry(result) for result in results])
    print()
    print_table(summary([*read_rows(out / "kernels.json"), *read_rows(out / "engine.json")]))
    return exit_status(results)


def exit_status(results: Sequence[Result]) -> int:
    """0 where every part ended well."""
    return int(any(result.status != 0 for result in results))


if __name__ == "__main__":
    sys.exit(main())
