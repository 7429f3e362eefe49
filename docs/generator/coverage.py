"""The table of single-operator models that the LiteRT path was run over, from the saved figures."""

from __future__ import annotations

import collections
import json
import re
from typing import Any

from markdown import ROOT, table

FIGURES = ROOT / "docs" / "benchmarks" / "coverage-litert.json"
EXPANDED = "functions, written out in other operators"
REASONS = (
    (r"found element type|expected one of bool", "a dtype that artifacts do not have (bfloat16, 4 and 8 bits, text, ...)"),
    (r"expected a tensor|expected data of|1 to 64 inputs", "sequences, optionals and maps, or no input at all"),
    (r"expected dimensions|expected values|empty", "tensors without values, or without a shape"),
    (r"ONNX Runtime cannot run", "ONNX Runtime has nothing to hold the file against"),
    (r"custom operators", "the converter knows no LiteRT operator for it"),
    (r"reason_code|NotImplementedError|validation failed", "the converter refuses a form of the operator, and says which"),
    (r"answers differ", "the converter made a file that answers wrongly"),
    (r"SIG[A-Z]+ on it", "LiteRT's kernels abort on the file"),
    (r"failed to|Node number|only supports|not supported", "LiteRT's kernels refuse the file"),
    (r"in some order|tensors \[|one shape for inputs", "the file's inputs or outputs are not the model's"),
)  # fmt: skip
REST = "another reason, which is named"


def figures() -> dict[str, Any]:
    """The saved run."""
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def counts() -> str:
    """How many of each, and what ran."""
    run = figures()
    total = sum(run["counts"][name] for name in ("parity", "refused", "failed"))
    constants = run["counts"]["parity_with_constants"]
    rows = [
        ["converted, answers as ONNX Runtime does", str(run["counts"]["parity"])],
        ["… of these with constants for all inputs but the first", str(constants)],
        ["refused, with the reason", str(run["counts"]["refused"])],
        ["failed", str(run["counts"]["failed"])],
        ["all", str(total)],
    ]
    packages = {**run["machine"]["packages"], **run["toolchain"]["packages"]}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    told = f"{versions}; Python {run['machine']['python']}, {run['machine']['system']}."
    return table(["outcome", "cases"], rows) + f"\n{told}\n"


def reasons() -> str:
    """Why cases were refused."""
    found = collections.Counter(
        next((text for pattern, text in REASONS if re.search(pattern, case["reason"])), REST)
        for case in figures()["cases"]
        if case["outcome"] == "refused"
    )
    return table(["reason", "cases"], ([text, str(count)] for text, count in found.most_common()))


def operators() -> str:
    """What became of each operator's cases."""
    by_operator: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for case in figures()["cases"]:
        name = EXPANDED if case["operator"].endswith("(expanded)") else case["operator"]
        by_operator[name].append(case)
    rows = []
    for name, cases in sorted(by_operator.items(), key=lambda one: (one[0] == EXPANDED, one[0])):
        parity = [case for case in cases if case["outcome"] == "parity"]
        constants = sum(case["form"] == "constants" for case in parity)
        rows.append(
            [
                name,
                str(len(parity) - constants or ""),
                str(constants or ""),
                str(sum(case["outcome"] == "refused" for case in cases) or ""),
                str(sum(case["outcome"] == "failed" for case in cases) or ""),
            ]
        )
    return table(["operator", "parity", "parity with constants", "refused", "failed"], rows)
