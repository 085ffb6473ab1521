"""A table as an SVG: for each case a bar of CPU time by process, and its throughput.

No plotting library for a few rectangles.
"""

from html import escape
from statistics import median

from bench.case import Table
from bench.rounds import Results

COLOURS = {"server": "#3465a4", "database": "#75a76b", "load": "#c8c8c8"}
LABELS = {"server": "server", "database": "database", "load": "load generator"}
WIDTH, BAR, ROW, TOP, LEFT, RIGHT = 860, 20, 52, 56, 16, 150


def svg(table: Table, results: Results) -> str:
    """The table's chart."""
    cpu = {
        case.name: {name: median(sample.cpu_ms(name) for sample in results.of(case)) for name in COLOURS}
        for case in table.cases
    }
    longest = max(sum(parts.values()) for parts in cpu.values())
    scale = (WIDTH - LEFT - RIGHT) / longest
    height = TOP + ROW * len(table.cases) + 12
    size = f'width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
        f'<rect {size} fill="white"/>',
        _text(LEFT, 20, f"{table.title}: CPU milliseconds for one", weight="bold"),
        *_legend(),
    ]
    for index, case in enumerate(table.cases):
        y = TOP + ROW * index
        rate = median(sample.rate for sample in results.of(case))
        parts.append(_text(LEFT, y + 12, f"{case.title}"))
        x = float(LEFT)
        for name, value in cpu[case.name].items():
            if value:
                parts.append(_bar(x, y + 18, value * scale, COLOURS[name], f"{LABELS[name]}: {value:.2f} ms"))
                x += value * scale
        parts.append(_text(x + 8, y + 33, f"{sum(cpu[case.name].values()):.2f} ms · {rate:,.0f}/s"))
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> list[str]:
    parts, x = [], LEFT
    for name, colour in COLOURS.items():
        parts += [_bar(x, 31, 12, colour, LABELS[name], height=12), _text(x + 18, 42, LABELS[name])]
        x += 120
    return parts


def _bar(x: float, y: float, width: float, colour: str, title: str, height: int = BAR) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}" fill="#222">{escape(text)}</text>'
