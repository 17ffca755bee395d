"""The cost of a decision as workers grow, as a plot in SVG.

python -m bench.scaling --trace FILE [--svg docs/routing_scaling.svg] [--json]

The trace of `bench.trace` is replayed to pools of 8 to 1,000 workers; it arrives faster as there are more of them.
Times are of `Router.choose`, with matching and reserving and without hashing. Garbage collection is off.
"""

import argparse
import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.timing import machine
from bench.trace import read_trace
from bench.trace_replay import Replay

WORKERS = (8, 16, 32, 64, 125, 250, 500, 1000)
CACHE_BLOCKS_PER_WORKER = 6250
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 320, 60, 20, 90, 45


def measure(trace: Path) -> dict[int, dict[str, float]]:
    """By number of workers: quantiles of a decision in microseconds."""
    figures = {}
    for workers in WORKERS:
        replay = Replay(read_trace(trace, workers / 8), workers, workers * CACHE_BLOCKS_PER_WORKER, "prefix")
        gc.disable()
        try:
            result = replay.run()
        finally:
            gc.enable()
        figures[workers] = {name: result.decision_us(q) for name, q in (("p50_us", 0.5), ("p99_us", 0.99))}
    return figures


def svg(figures: Mapping[int, Mapping[str, float]]) -> str:
    """Lines over evenly spaced numbers of workers; the scale begins at 0."""
    top_us = max(line["p99_us"] for line in figures.values()) * 1.1
    parts = axes(list(figures), top_us)
    for name, colour in (("p50_us", "#1f6fb2"), ("p99_us", "#c0504d")):
        points = [point(place / (len(figures) - 1), line[name] / top_us) for place, line in enumerate(figures.values())]
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = points[-1]
        parts.append(f'<text x="{x + 6}" y="{y + 4}" fill="{colour}">{name[:3]}</text>')
    return "\n".join([*parts, "</svg>", ""])


def axes(workers: Sequence[int], top_us: float) -> list[str]:
    """The frame: titles, a line for every fifth of the scale, a label for every number of workers."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '  font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="14">one routing decision, microseconds</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">workers in the pool</text>',
    ]
    for place, number in enumerate(workers):
        x, y = point(place / (len(workers) - 1), 0)
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{number}</text>')
    for fifth in range(6):
        x, y = point(0, fifth / 5)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{top_us * fifth / 5:.0f}</text>')
    return parts


def point(across: float, up: float) -> tuple[float, float]:
    """Where on the paper, given as parts of the axes."""
    x = LEFT + across * (WIDTH - LEFT - RIGHT)
    return round(x, 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--svg", type=Path, help="write the plot here")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    figures = measure(options.trace)
    if options.svg:
        options.svg.write_text(svg(figures), "utf-8")
    if options.json:
        print(json.dumps({"machine": machine(), "decision": figures}, indent=2))
        return
    print("| workers | decision p50, us | p99 |\n| --- | --- | --- |")
    for workers, line in figures.items():
        print(f"| {workers} | {line['p50_us']:.0f} | {line['p99_us']:.0f} |")


if __name__ == "__main__":
    main()
