"""``report.html``: the report for people, in one file that needs nothing else.

It shows every candidate's accuracy against its speed, the figures, and the decision with its reason.
"""

from __future__ import annotations

from html import escape
from typing import Final

from compiler.service.report import Candidate, Report, TargetReport, Verdict

_COLOURS: Final = {
    Verdict.ACCEPTED: "#1a7f4b",
    Verdict.UNPROVEN: "#b26a00",
    Verdict.REJECTED: "#b3261e",
    Verdict.FAILED: "#7a7a7a",
    Verdict.SKIPPED: "#7a7a7a",
}
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c1c1e;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e3e6;vertical-align:top}
th{font-weight:600;color:#555}td.n,th.n{text-align:right;white-space:nowrap}
.badge{color:#fff;border-radius:.7rem;padding:.1rem .55rem;font-size:.8rem}
.note{color:#555}code{font-size:.85em}svg text{font:11px system-ui,sans-serif;fill:#444}
@media(prefers-color-scheme:dark){body{background:#161618;color:#e8e8ea}th,.note{color:#a5a5aa}
th,td{border-color:#333338}svg text{fill:#bbb}}
"""


def render(report: Report) -> str:
    """The page."""
    model = report.model
    title = f"{escape(model.name)} {escape(model.version)}"
    notes = "".join(f"<li>{escape(note)}</li>" for note in model.notes)
    host = ", ".join(escape(value) for value in report.host.values() if value)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}: compile report</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><p class=note>{escape(model.task)} · {model.size_bytes / 1024:.0f} KiB in fp32 · "
        f"sha256 <code>{model.sha256[:16]}</code></p><ul class=note>{notes}</ul>"
        + "".join(_target(target) for target in report.targets)
        + f"<p class=note>Measured on {host}; one sample, one thread.</p></body></html>\n"
    )


def _target(target: TargetReport) -> str:
    rows = "".join(_row(candidate) for candidate in target.candidates)
    return (
        f"<h2>{escape(target.target)} {_badge(target.status)}</h2>"
        f"<p>{escape(target.reason)}. Evidence: {escape(target.evidence)}.</p>{_plot(target.candidates)}"
        "<table><thead><tr><th>recipe<th>verdict<th class=n>metric<th class=n>fp32<th class=n>cosine"
        "<th class=n>p50 ms<th class=n>p95 ms<th class=n>KiB<th>why</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _row(candidate: Candidate) -> str:
    metric, latency = candidate.metric, candidate.latency_ms
    cells = [
        f"{metric.value:.4f}" if metric else "",
        f"{metric.reference:.4f}" if metric else "",
        f"{candidate.parity.cosine_min:.5f}" if candidate.parity else "",
        f"{latency.p50:.3f}" if latency else "",
        f"{latency.p95:.3f}" if latency else "",
        f"{candidate.payload_size_bytes / 1024:.0f}" if candidate.payload_size_bytes else "",
    ]
    figures = "".join(f"<td class=n>{cell}" for cell in cells)
    return (
        f"<tr><td><code>{escape(candidate.recipe)}</code><td>{_badge(candidate.verdict)}{figures}"
        f"<td>{escape(candidate.reason)}</tr>"
    )


def _badge(verdict: Verdict) -> str:
    return f'<span class="badge" style="background:{_COLOURS[verdict]}">{verdict}</span>'


def _plot(candidates: list[Candidate]) -> str:
    """Metric over latency, a dot per candidate that was measured."""
    points = [
        (c.latency_ms.p50, c.metric.value, c)
        for c in candidates
        if c.latency_ms is not None and c.metric is not None
    ]
    if len(points) < 2:
        return ""
    width, height, left, bottom = 640, 220, 60, 30
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x_end, y_low, y_high = max(xs) * 1.15 or 1.0, min(ys), max(ys)
    pad = (y_high - y_low) * 0.15 or 0.01
    y_low, y_high = y_low - pad, y_high + pad
    marks = []
    for x, y, candidate in points:
        at_x = left + x / x_end * (width - left - 140)
        at_y = (height - bottom) * (1 - (y - y_low) / (y_high - y_low))
        marks.append(
            f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="5" fill="{_COLOURS[candidate.verdict]}"/>'
            f'<text x="{at_x + 8:.1f}" y="{at_y + 4:.1f}">{escape(candidate.recipe)}</text>'
        )
    axis = f'<line x1="{left}" y1="{height - bottom}" x2="{width}" y2="{height - bottom}" stroke="#999"/>'
    labels = (
        f'<text x="{left}" y="{height - 10}">0</text>'
        f'<text x="{width - 200}" y="{height - 10}">latency p50, up to {x_end:.2f} ms</text>'
        f'<text x="0" y="12">{y_high:.4f}</text><text x="0" y="{height - bottom}">{y_low:.4f}</text>'
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" role="img" aria-label="metric over latency">'
        f"{axis}{labels}{''.join(marks)}</svg>"
    )
