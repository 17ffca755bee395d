"""How long a model takes to load, and how much memory on the way: from bfloat16, and from packed int4.

    python -m bench.load_time --json

Each load is a process of its own, after the files were read into the page cache. Time is that of the weights alone:
their files read, checked, packed and laid out, without importing torch and without a worker's digests of its
files. Memory is the process's largest resident set during the load (VmHWM, set back before it) less what it had before:
files are read and not mapped, so no page of the file cache is counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.random_checkpoint import save_bfloat16, save_packed
from bench.random_model import SPECS
from bench.timing import machine
from kernels.cpu_ops.loader import load_library
from workers.config import WeightConfig
from workers.engine.build import check_model
from workers.models.decoder import DecoderWeights
from workers.models.tensor_shapes import tensor_shapes
from workers.weights.loader import WeightLoader

GROUP_SIZE = 64


@dataclass(frozen=True)
class LoadTime:
    """One load.

    Attributes:
        file_bytes: of all weights on disk.
        held_bytes: of all weights in memory, when they are loaded.
        largest_bytes: of the largest tensor on disk.
        peak_bytes: of memory at the worst moment, less what the process had before.
    """

    seconds: float
    file_bytes: int
    held_bytes: int
    largest_bytes: int
    peak_bytes: int

    @property
    def gb_per_s(self) -> float:
        """Of the files."""
        return self.file_bytes / self.seconds / 1e9


def load_here(model_dir: Path) -> LoadTime:
    """Load a model in this process, which should have done nothing else yet."""
    load_library()
    spec, source = check_model(model_dir)
    shapes = [shape for _, shape in tensor_shapes(spec)]
    before, begin_s = resident_bytes(forget=True), time.perf_counter()
    weights = WeightLoader(source, spec, WeightConfig(group_size=GROUP_SIZE), torch.device("cpu")).load()
    seconds = time.perf_counter() - begin_s
    return LoadTime(
        seconds=seconds,
        file_bytes=sum(path.stat().st_size for path in model_dir.glob("*.safetensors")),
        held_bytes=held_bytes(weights),
        largest_bytes=max(torch.Size(shape).numel() for shape in shapes) * torch.bfloat16.itemsize,
        peak_bytes=resident_bytes() - before,
    )


def resident_bytes(*, forget: bool = False) -> int:
    """The largest resident set so far, or with `forget` from here on. (getrusage counts the parent's as well.)"""
    if forget:
        Path("/proc/self/clear_refs").write_text("5", "utf-8")  # see proc(5)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def held_bytes(weights: DecoderWeights) -> int:
    """Of embedding, head and matrices."""
    held = weights.embed_tokens.nbytes + weights.lm_head.num_bytes
    for layer in weights.layers:
        held += sum(m.num_bytes for m in (layer.qkv_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj))
    return held


def load_elsewhere(model_dir: Path, num_threads: int) -> LoadTime:
    """Load a model in a process of its own, its files in the page cache."""
    for path in model_dir.glob("*.safetensors"):
        with path.open("rb") as file:
            while file.read(2**24):
                pass
    code = (
        "import json, sys, torch; from dataclasses import asdict; from pathlib import Path; "
        "from bench.load_time import load_here; torch.set_num_threads(int(sys.argv[2])); "
        "print(json.dumps(asdict(load_here(Path(sys.argv[1])))))"
    )
    command = [sys.executable, "-c", code, str(model_dir), str(num_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return LoadTime(**json.loads(done.stdout))


def main() -> None:
    """Make both checkpoints, load each some times, and show the fastest load of each."""
    parser = argparse.ArgumentParser(description="load time and peak memory")
    parser.add_argument("--model", choices=sorted(SPECS), default="tinyllama-1.1b", help="sizes (tinyllama-1.1b)")
    parser.add_argument("--repeats", type=int, default=3, help="loads of each checkpoint (3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = {
            "bfloat16": save_bfloat16(Path(scratch) / "bfloat16", SPECS[options.model]),
            "int4": save_packed(Path(scratch) / "int4", SPECS[options.model], GROUP_SIZE),
        }
        loads = {
            name: [load_elsewhere(path, torch.get_num_threads()) for _ in range(options.repeats)]
            for name, path in made.items()
        }
    best = {name: min(times, key=lambda load: load.seconds) for name, times in loads.items()}
    if options.json:
        figures = {name: asdict(load) | {"gb_per_s": load.gb_per_s} for name, load in best.items()}
        print(
            json.dumps({"model": options.model, "threads": torch.get_num_threads(), **figures, **machine()}, indent=2)
        )
        return
    for name, load in best.items():
        print(
            f"{name:9} {load.seconds:6.2f} s  {load.gb_per_s:5.2f} GB/s  held {load.held_bytes / 2**20:,.0f} MiB, "
            f"peak {load.peak_bytes / 2**20:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
