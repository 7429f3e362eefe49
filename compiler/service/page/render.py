"""The page: accuracy against speed of every candidate, error per layer, histograms, the decision and why."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from compiler.evaluate.evidence import Evidence
from compiler.evaluate.gates import Gate
from compiler.service.page import charts
from compiler.service.page.style import COLOURS, STYLE
from compiler.service.report import Candidate, Metric, Model, Report, TargetReport, Verdict
from compiler.toolchains.workshop import Bars

_HISTOGRAMS = 64
_HEADS = (
    "recipe",
    "verdict",
    "selection",
    "held out",
    "fp32",
    "cosine",
    "SNR dB",
    "p50 ms",
    "p95 ms",
    "KiB",
    "why",
)


def render(report: Report) -> str:
    """The page as one self-contained document."""
    model = report.model
    title = f"{escape(model.name)} {escape(model.version)}"
    host = ", ".join(f"{escape(k)} {escape(v)}" for k, v in report.host.items() if v)
    links = "".join(f'<a href="#{escape(t.target)}">{escape(t.target)}</a>' for t in report.targets)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}: compile report</title><style>{STYLE}</style></head><body>"
        f"<h1>{title}</h1><p class=note>{escape(model.task)}</p><nav>{links}</nav>{_model(model)}"
        + "".join(_target(target) for target in report.targets)
        + f"<p class=note>Measured on {host}; one sample, one thread, candidates turn by turn. "
        f"{_digests(report)}</p></body></html>\n"
    )


def _model(model: Model) -> str:
    facts = [("size in fp32", f"{model.size_bytes / 1024:.0f} KiB"), ("opset", str(model.opset))]
    if model.metric is not None:
        facts.append((f"{model.metric.name}, all samples", f"{model.metric.value:.4f}"))
        facts.append(("budget", f"{model.metric.budget:g}"))
    if model.split is not None:
        split = model.split
        chooses = f"{split.selection} choose, " if split.selection else "none choose, "
        facts.append(("evaluation samples", f"{chooses}{split.held_out} decide"))
    facts.append(("calibration samples", str(model.calibration_samples)))
    if model.latency_ms is not None:
        facts.append(("fp32 in ONNX Runtime", f"{model.latency_ms.p50:.3f} ms"))
    notes = "".join(f"<li>{escape(note)}</li>" for note in model.notes)
    return _facts(facts) + (f"<ul class=note>{notes}</ul>" if notes else "")


def _target(target: TargetReport) -> str:
    budget = next((m.budget for c in target.candidates if (m := c.metric or c.selection)), None)
    evidence = target.chosen.evidence if target.chosen else None
    parts = [
        f'<h2 id="{escape(target.target)}">{escape(target.target)} {_badge(target.status)}</h2>',
        f"<p>{escape(target.reason)}.</p>",
        _evidence(evidence) if target.chosen else "",
        charts.accuracy_over_speed(target.candidates, budget),
        _table(target.candidates, target.chosen),
        _chosen(target.chosen) if target.chosen else "",
    ]
    if target.fallback_candidates:
        parts.append("<h3>Portable fallback</h3>")
        parts.append(_evidence(target.fallback.evidence) if target.fallback else "")
        parts.append(_table(target.fallback_candidates, target.fallback))
        parts.append(_chosen(target.fallback) if target.fallback else "")
    return "".join(parts)


def _evidence(evidence: Evidence | None) -> str:
    if evidence is None:
        return "<p>Evidence: <b>weak</b>; nothing was scored.</p>"
    bounds = "no interval"
    if evidence.loss_lower is not None and evidence.loss_upper is not None:
        bounds = f"{evidence.confidence:.3g} bounds {evidence.loss_lower:+.4f} to {evidence.loss_upper:+.4f}"
    text = f"Evidence: <b>{escape(evidence.strength)}</b>. Loss {evidence.loss:+.4f}, {bounds}, from {evidence.samples} held-out samples ({escape(evidence.method)})"
    if evidence.p_value is not None:
        text += f", p {evidence.p_value:.3g}"
    if evidence.samples_needed is not None:
        text += f". <b>{evidence.samples_needed} samples would decide</b>"
    return f"<p>{text}.</p>"


def _table(candidates: Sequence[Candidate], chosen: Candidate | None) -> str:
    heads = "".join(f"<th{_numeric(i)}>{head}" for i, head in enumerate(_HEADS))
    rows = "".join(_row(one, is_chosen=one is chosen or one == chosen) for one in candidates)
    return (
        f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _numeric(index: int) -> str:
    return " class=n" if 2 <= index <= 9 else ""


def _row(one: Candidate, *, is_chosen: bool) -> str:
    snr = min((o.snr_db for o in one.parity.outputs.values()), default=None) if one.parity else None
    latency = one.latency_ms
    mark = "≈" if one.latency_source == "estimate" else ""
    reference = one.metric or one.selection
    cells = [
        _value(one.selection),
        _value(one.metric),
        f"{reference.reference:.4f}" if reference else "",
        f"{one.parity.cosine_min:.5f}" if one.parity else "",
        f"{snr:.1f}" if snr is not None else "",
        f"{mark}{latency.p50:.3f}" if latency else "",
        f"{mark}{latency.p95:.3f}" if latency else "",
        f"{one.payload_size_bytes / 1024:.0f}" if one.payload_size_bytes else "",
    ]
    figures = "".join(f"<td class=n>{cell}" for cell in cells)
    row = "<tr class=chosen>" if is_chosen else "<tr>"
    return (
        f"{row}<td><code>{escape(one.recipe)}</code><td>{_badge(one.verdict)}{figures}"
        f"<td>{escape(one.reason)}</tr>"
    )


def _value(metric: Metric | None) -> str:
    if metric is None:
        return ""
    others = [
        f"{name} {value:.4f}"
        for name, value in (("own", metric.exact), ("here", metric.host))
        if value is not None and abs(value - metric.value) > 1e-9
    ]
    return f"{metric.value:.4f}" + "".join(
        f"<br><span class=note>{other}</span>" for other in others
    )


def _chosen(one: Candidate) -> str:
    parts = [_gates(one.gates)]
    if one.kept:
        rows = "".join(
            f"<tr><td><code>{escape(k.name)}</code><td>{escape(k.op)}<td class=n>{k.snr_db:.1f}<td class=n>{k.noise:.3g}</tr>"
            for k in one.kept
        )
        parts.append(
            "<h3>Layers that mixed precision kept out of the integers</h3><div class=wide><table><thead><tr>"
            "<th>layer<th>operator<th class=n>SNR dB if quantized alone<th class=n>noise</tr></thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )
    if one.fallen:
        items = "".join(
            f"<li><code>{escape(k)}</code>: {escape(v)}</li>" for k, v in one.fallen.items()
        )
        parts.append(f"<h3>Layers that the quantizer could not take</h3><ul>{items}</ul>")
    if one.layers:
        parts.append(
            "<details open><summary>Error per layer, when all run quantized together</summary>"
            f"{charts.layer_errors(one.layers)}</details>"
        )
    parts.append(_histograms("Weights", one.weights))
    parts.append(_histograms("Activations on calibration data", one.activations))
    return "".join(parts)


def _gates(gates: Sequence[Gate]) -> str:
    if not gates:
        return ""
    words = {True: "passed", False: "<span class=bad>failed</span>", None: "not run"}
    rows = "".join(
        f"<tr><td>{escape(g.name)}<td>{words[g.passed]}<td>{escape(g.detail)}</tr>" for g in gates
    )
    return (
        "<h3>Gates of the chosen candidate</h3><div class=wide><table><tbody>"
        f"{rows}</tbody></table></div>"
    )


def _histograms(title: str, found: dict[str, Bars]) -> str:
    if not found:
        return ""
    shown = list(found.items())[:_HISTOGRAMS]
    more = f", {len(shown)} of them shown" if len(found) > len(shown) else ""
    figures = "".join(charts.histogram(name, bars) for name, bars in shown)
    return (
        f"<details><summary>{title}: {len(found)} tensors{more}; counts on a logarithmic scale</summary>"
        f"<div class=grid>{figures}</div></details>"
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return (
        "<div class=facts>"
        + "".join(f"<div><b>{escape(name)}</b>{escape(value)}</div>" for name, value in facts)
        + "</div>"
    )


def _digests(report: Report) -> str:
    return "sha256 of the model <code>" + escape(report.model.sha256) + "</code>."


def _badge(verdict: Verdict) -> str:
    return f'<span class="badge" style="background:{COLOURS[verdict]}">{verdict}</span>'
