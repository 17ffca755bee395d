"""Lines over a common scale, as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Json = dict[str, Any]
Line = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 340, 60, 28, 150, 45
COLOURS = ("#1f6fb2", "#c0504d", "#4f8f3a", "#7d5ba6", "#d28b26", "#3a9aa8", "#8c6d4f", "#6b6b6b")
MOST_TICKS = 6


def report_svg(report: Json) -> str:
    """How many of the answers had begun by when; a line for each group. The slowest two per cent are off the paper."""
    return curves_svg(f"{report['settings']['profile']}: time to first token", report["ttft_curve_ms"])


def curves_svg(title: str, curves_ms: Mapping[str, Sequence[float]]) -> str:
    """The same of curves as reports have them."""
    lines = {
        name: [(at_ms, 2.0 * place) for place, at_ms in enumerate(curve[:-1])]
        for name, curve in curves_ms.items()
        if curve
    }
    return svg(title, "milliseconds", "% of answers", lines)


def svg(title: str, across: str, up: str, lines: Mapping[str, Line]) -> str:
    """Both scales begin at 0 and end at a round number."""
    across_ticks = ticks(max((x for line in lines.values() for x, _ in line), default=0))
    up_ticks = ticks(max((y for line in lines.values() for _, y in line), default=0))
    right, top = across_ticks[-1], up_ticks[-1]
    parts = axes(f"{title} ({up})", across, across_ticks, up_ticks)
    for place, (name, line) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join("{},{}".format(*point(x / right, y / top)) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 12 + 17 * place}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def ticks(largest: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from 0 to the first that is not below `largest`."""
    smallest = (largest or 1) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(smallest))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= smallest)
    return [number * step for number in range(math.ceil((largest or 1) / step) + 1)]


def axes(title: str, across: str, across_ticks: Sequence[float], up_ticks: Sequence[float]) -> list[str]:
    """The frame: titles, and a label at each tick of both scales."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '  font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="16">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{escape(across)}</text>',
    ]
    for tick in up_ticks:
        x, y = point(0, tick / up_ticks[-1])
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{label(tick)}</text>')
    for tick in across_ticks:
        x, y = point(tick / across_ticks[-1], 0)
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{label(tick)}</text>')
    return parts


def label(tick: float) -> str:
    """1,000 and 0.25, not 1e+03."""
    return f"{tick:,.0f}" if tick >= 10 else f"{tick:.3g}"


def point(across: float, up: float) -> tuple[float, float]:
    """Where on the paper, given as parts of the axes."""
    x = LEFT + across * (WIDTH - LEFT - RIGHT)
    return round(x, 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)
