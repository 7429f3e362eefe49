"""Charts of the report's page, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from compiler.service.page.style import COLOURS
from compiler.service.report import Candidate
from compiler.toolchains.workshop import Bars, LayerError

_WIDTH: Final = 960
_HEIGHT: Final = 280
_LEFT: Final = 96
_BOTTOM: Final = 34
_RIGHT: Final = 300
_SNR_MOST: Final = 60.0


class Dot(NamedTuple):
    """A candidate in the plane of latency and loss."""

    x: float
    y: float
    candidate: Candidate


def accuracy_over_speed(candidates: Sequence[Candidate], budget: float | None) -> str:
    """Loss of the metric over latency: a dot per candidate that has both; the budget is a line."""
    dots = [dot for one in candidates if (dot := _dot(one)) is not None]
    if not dots:
        return ""
    x_end = max(dot.x for dot in dots) * 1.15 or 1.0
    ys = [dot.y for dot in dots] + [0.0] + ([budget] if budget is not None else [])
    pad = (max(ys) - min(ys)) * 0.15 or 0.01
    low, high = min(ys) - pad, max(ys) + pad

    def at(x: float, y: float) -> tuple[float, float]:
        left = _LEFT + x / x_end * (_WIDTH - _LEFT - _RIGHT)
        return left, 10 + (_HEIGHT - _BOTTOM - 10) * (1 - (high - y) / (high - low))

    marks = []
    for dot, label_y in _apart([(dot, at(dot.x, dot.y)[1]) for dot in dots]):
        x, y = at(dot.x, dot.y)
        colour = COLOURS[dot.candidate.verdict]
        title = f"{dot.candidate.recipe}: {dot.x:.3f} ms, loss {dot.y:+.4f}"
        marks.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT + 6}" y2="{label_y - 4:.1f}" stroke="var(--line)"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"><title>{escape(title)}</title></circle>'
            f'<text x="{_WIDTH - _RIGHT + 10}" y="{label_y:.1f}">{escape(dot.candidate.recipe)}</text>'
        )
    lines = [_rule(at(0, 0.0)[1], "fp32", dashed=False)]
    if budget is not None:
        lines.append(_rule(at(0, budget)[1], f"budget {budget:g}", dashed=True))
    base = _HEIGHT - _BOTTOM
    axis = (
        f'<line x1="{_LEFT}" y1="{base}" x2="{_WIDTH - _RIGHT}" y2="{base}" stroke="var(--dim)"/>'
        f'<text x="{_LEFT}" y="{base + 16}">0</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{base + 16}" text-anchor="end">p50 latency, to {x_end:.3g} ms</text>'
        f'<text x="0" y="{base + 30}">loss of the metric, downwards is worse</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="100%" role="img" '
        f'aria-label="loss of the metric over latency">{axis}{"".join(lines)}{"".join(marks)}</svg>'
    )


def layer_errors(layers: Sequence[LayerError], most: int = 60) -> str:
    """Signal to noise per layer, in the model's order; a short bar is a layer that suffers."""
    if not layers:
        return ""
    shown = layers[:most]
    row = 15
    height = row * len(shown) + 22
    bars = []
    for index, layer in enumerate(shown):
        y = 16 + index * row
        length = max(2.0, min(layer.snr_db, _SNR_MOST) / _SNR_MOST * 380)
        colour = "var(--bad)" if layer.snr_db < 10 else "var(--bar)"
        title = f"{layer.name}: SNR {layer.snr_db:.1f} dB, cosine {layer.cosine:.5f}, max abs {layer.max_abs:.3g}"
        bars.append(
            f'<g><title>{escape(title)}</title><rect x="270" y="{y}" width="{length:.1f}" height="11" fill="{colour}"/>'
            f'<text x="262" y="{y + 10}" text-anchor="end">{escape(_short(layer.name, 38))}</text>'
            f'<text x="{276 + length:.1f}" y="{y + 10}">{layer.snr_db:.1f} dB  {escape(layer.op)}</text></g>'
        )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="100%" role="img" aria-label="error per layer">'
        f"{''.join(bars)}</svg>"
    )


def histogram(name: str, bars: Bars) -> str:
    """One tensor's values; heights on a logarithmic scale, because tails decide ranges."""
    counts = bars.counts or [0]
    most = max(counts) or 1
    width = 176 / len(counts)
    parts = []
    for index, count in enumerate(counts):
        if count:
            height = 44 * _log(count) / _log(most)
            parts.append(f"M{index * width:.1f} 46v{-height:.1f}h{width:.1f}v{height:.1f}z")
    caption = f"{name}: {bars.lo:.4g} to {bars.hi:.4g}"
    return (
        f'<figure title="{escape(caption)}"><svg viewBox="0 0 176 48" width="100%" role="img" '
        f'aria-label="{escape(caption)}"><path d="{"".join(parts)}" fill="var(--bar)"/></svg>'
        f"<figcaption>{escape(name)}<br>{bars.lo:.4g} … {bars.hi:.4g}</figcaption></figure>"
    )


def _log(count: int) -> float:
    return float(count.bit_length())


def _dot(one: Candidate) -> Dot | None:
    figures = one.metric or one.selection
    if one.latency_ms is None or figures is None:
        return None
    return Dot(one.latency_ms.p50, figures.loss, one)


def _apart(labels: list[tuple[Dot, float]]) -> list[tuple[Dot, float]]:
    """Labels pushed down until none lies on another."""
    placed: list[tuple[Dot, float]] = []
    free = 0.0
    for dot, y in sorted(labels, key=lambda pair: pair[1]):
        free = max(free + 13, y + 4)
        placed.append((dot, free))
    over = free - (_HEIGHT - 4)
    return [(dot, y - max(over, 0.0)) for dot, y in placed]


def _rule(y: float, text: str, *, dashed: bool) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="var(--dim)"{dash}/>'
        f'<text x="{_LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else "…" + name[-most + 1 :]
