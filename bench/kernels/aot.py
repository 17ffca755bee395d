"""The table of compiled kernels: which instructions, how many registers, how much shared memory."""

import re
from collections.abc import Iterable

import torch

from bench.kernels.case import KernelCase
from bench.kernels.compile_only import CompiledKernel, compile_only

WGMMA = re.compile(r"wgmma\.mma_async\.sync\.aligned\.(m64n\d+k\d+)[^{]*\{[^}]*\}, ?(\{|%)")
Row = dict[str, str | int]


def aot_rows(cases: Iterable[KernelCase]) -> list[Row]:
    """One row for each kernel that the cases launch, compiled for sm_90a."""
    rows = []
    for case in cases:
        with compile_only() as compiled:
            case.make(torch.device("cpu"))()
        rows += [aot_row(case.name, kernel) for kernel in compiled]
    return rows


def aot_row(case: str, kernel: CompiledKernel) -> Row:
    """What can be said of a kernel without running it.

    `wgmma` names the warp-group products, RS where the left side comes from registers and SS where from shared memory;
    `mma_sync` counts the older instruction; `async_copies` loads that go to shared memory while the program computes;
    `layout_conversions` those between threads that go through shared memory; `stores_before_product` writes to shared
    memory from registers that stand before the last product in the code: what is put there to be multiplied.
    """
    before_product = kernel.ptx.rpartition("wgmma.mma_async")[0]
    kinds = {f"{shape} {'RS' if side == '{' else 'SS'}" for shape, side in WGMMA.findall(kernel.ptx)}
    return {
        "case": case,
        "kernel": kernel.name,
        "wgmma": ", ".join(sorted(kinds)),
        "mma_sync": kernel.ptx.count("mma.sync"),
        "async_copies": kernel.ttgir.count("ttg.async_copy_global_to_local"),
        "layout_conversions": kernel.ttgir.count("ttg.convert_layout"),
        "stores_before_product": before_product.count("st.shared"),
        "spills": kernel.spill_bytes,
        "shared_bytes": kernel.shared_bytes,
        "registers": kernel.registers,
        "threads": int(re.findall(r"\.(?:req|max)ntid (\d+)", kernel.ptx)[0]),
        "loads_16_bytes": len(re.findall(r"\b(?:LDG|LDGSTS)\.[\w.]*128", kernel.sass)),
    }
