"""Lines over a common scale, as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Json = dict[str, Any]
Line = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 340, 60, 28, 150, 45
COLOURS = ("#1f6fb2", "#c0504d", "#4f8f3a", "#7d5ba6", "#d28b26", "#3a9aa8", "#8c6d4f", "#6b6b6b")
TICKS = 5


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
    """Both scales begin at 0."""
    right = max((x for line in lines.values() for x, _ in line), default=0) or 1
    top = max((y for line in lines.values() for _, y in line), default=0) or 1
    parts = axes(f"{title} ({up})", across, right, top)
    for place, (name, line) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join("{},{}".format(*point(x / right, y / top)) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{TOP + 12 + 17 * place}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def axes(title: str, across: str, right: float, top: float) -> list[str]:
    """The frame: titles, and a label for every part of both scales."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        '  font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="16">{escape(title)}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{escape(across)}</text>',
    ]
    for tick in range(TICKS + 1):
        share = tick / TICKS
        x, y = point(0, share)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{top * share:.3g}</text>')
        x, y = point(share, 0)
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{right * share:.3g}</text>')
    return parts


def point(across: float, up: float) -> tuple[float, float]:
    """Where on the paper, given as parts of the axes."""
    x = LEFT + across * (WIDTH - LEFT - RIGHT)
    return round(x, 1), round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1)
