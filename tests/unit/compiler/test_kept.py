"""Which whole compiles are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.service import kept, output, report
from compiler.service.report import Candidate, Model, Report, TargetReport, Verdict


def compiled(verdict: Verdict, tools: dict[str, str]) -> Report:
    one = Candidate(recipe="r", runtime="litert", verdict=verdict, reason="", tools=tools)
    target = TargetReport(
        target="t", status=verdict, reason="", evidence="weak", chosen=one, candidates=[one]
    )
    model = Model(name="m", version="1", sha256="0" * 64)
    return Report(format=report.FORMAT, model=model, targets=[target])


@pytest.mark.parametrize(
    ("verdict", "tools", "stays"),
    [
        (Verdict.ACCEPTED, {"litert": "digest"}, True),
        (Verdict.ACCEPTED, {}, True),
        (Verdict.FAILED, {"litert": "digest"}, False),
        (Verdict.UNPROVEN, {"litert": "digest", "qnn": "digest"}, False),
    ],
)
def test_what_may_come_out_another_way_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    verdict: Verdict, tools: dict[str, str], stays: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path))
    document = compiled(verdict, tools)
    kept.put("a" * 64, document, {output.REPORT: report.encode(document)})
    found = kept.get("a" * 64)
    assert (found is not None) is stays
    assert found is None or found[0] == document
