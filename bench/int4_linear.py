"""int4 linear on the CPU: torch's operator against dequantise-and-multiply, by rows.

python -m bench.int4_linear [--json]
"""

import argparse
import json

import torch

from bench.timing import alternate, machine, spread
from kernels.int4 import quantize
from kernels.int4_linear import Int4Weight, int4_linear, int4_linear_reference, prepare

SHAPES = ((512, 256), (1536, 256), (256, 768), (2048, 2048))  # (N, K): the bundled model's, and one of TinyLlama's
ROWS = (1, 4, 16, 64, 256, 512)
GROUP_SIZE = 32
REPEATS = 15


def measure(num_outputs: int, num_inputs: int, rows: int) -> dict[str, object]:
    """One line of the table."""
    packed = quantize(torch.randn(num_outputs, num_inputs), GROUP_SIZE)
    operator: Int4Weight = prepare(packed, torch.bfloat16, strict=True)
    x = torch.randn(rows, num_inputs, dtype=torch.bfloat16)
    seconds = alternate(
        {"operator": lambda: int4_linear(x, operator), "dequantise": lambda: int4_linear_reference(x, packed)}, REPEATS
    )
    times = {name: spread(values) for name, values in seconds.items()}
    ratio = times["operator"]["median_us"] / times["dequantise"]["median_us"]
    return {"n": num_outputs, "k": num_inputs, "rows": rows, "ratio": round(ratio, 2), **times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    table = [measure(n, k, rows) for n, k in SHAPES for rows in ROWS]
    if options.json:
        print(json.dumps({"machine": machine(), "threads": torch.get_num_threads(), "rows": table}, indent=2))
        return
    print("| N x K | rows | operator us | dequantise us | ratio |\n| --- | --- | --- | --- | --- |")
    for line in table:
        operator, dequantise = line["operator"], line["dequantise"]
        assert isinstance(operator, dict)
        assert isinstance(dequantise, dict)
        medians = f"{operator['median_us']:.0f} | {dequantise['median_us']:.0f}"
        print(f"| {line['n']} x {line['k']} | {line['rows']} | {medians} | {line['ratio']} |")


if __name__ == "__main__":
    main()
