"""int4 linear on the CPU, by rows: the C++ operator, torch's own, and dequantise-and-multiply.

python -m bench.int4_linear [--json]
"""

import argparse
import json

import torch

from bench.timing import alternate, machine, spread
from kernels.cpu_ops.linear import CpuLinear
from kernels.fusion import Fusion
from kernels.int4 import quantize
from kernels.int4_linear import int4_linear, int4_linear_reference, prepare

SHAPES = ((1536, 256), (256, 768), (4096, 2048), (2048, 5632))  # (N, K): the bundled model's, and of TinyLlama's size
ROWS = (1, 8, 64, 512)
GROUP_SIZE = 64
REPEATS = 15
WAYS = ("C++, bfloat16 rows", "C++, int8 rows", "torch's operator", "dequantise")


def measure(num_outputs: int, num_inputs: int, rows: int) -> dict[str, object]:
    """One line of the table: microseconds."""
    packed = quantize(torch.randn(num_outputs, num_inputs), GROUP_SIZE)
    operator = prepare(packed, torch.bfloat16, strict=True)
    bf16, int8 = CpuLinear(packed, Fusion()), CpuLinear(packed, Fusion(), int8_rows=True)
    x = torch.randn(rows, num_inputs)
    rounded = x.bfloat16()
    runs = (
        lambda: bf16(x),
        lambda: int8(x),
        lambda: int4_linear(rounded, operator),
        lambda: int4_linear_reference(rounded, packed),
    )
    seconds = alternate(dict(zip(WAYS, runs, strict=True)), REPEATS)
    return {"n": num_outputs, "k": num_inputs, "rows": rows, **{way: spread(seconds[way]) for way in WAYS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    table = [measure(n, k, rows) for n, k in SHAPES for rows in ROWS]
    if options.json:
        print(json.dumps({"machine": machine(), "threads": torch.get_num_threads(), "rows": table}, indent=2))
        return
    print(f"| N x K | rows | {' | '.join(WAYS)} |\n| --- | --- {'| --- ' * len(WAYS)}|")
    for line in table:
        medians = " | ".join(f"{line[way]['median_us']:,.0f}" for way in WAYS)  # type: ignore[index]
        print(f"| {line['n']} x {line['k']} | {line['rows']} | {medians} |")


if __name__ == "__main__":
    main()
