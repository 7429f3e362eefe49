"""Write the generated parts of the reference, between markers in pages that people write.

Rules:
- A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the rest of a page is left alone.
- What a part says comes from the code alone: enums, structs, docstrings, tables, commands.
- ``python docs/generator`` writes; ``--check`` writes nothing and exits 1 when something is out of date.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import coverage
import formats
import machines
import profiles
import service
from markdown import ROOT

PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

PARTS: dict[str, Callable[[], str]] = {
    "agent-commands": commands.agent,
    "agent-settings": formats.agent_settings,
    "api": service.api,
    "cloud-settings": formats.cloud_settings,
    "commands": commands.operator,
    "coverage": coverage.counts,
    "coverage-operators": coverage.operators,
    "coverage-reasons": coverage.reasons,
    "errors": machines.errors,
    "health": formats.health,
    "manifest": formats.manifest,
    "messages": formats.messages,
    "metrics": service.metrics,
    "operator-sets": profiles.operator_sets,
    "provenance": formats.provenance,
    "recipes": profiles.recipes,
    "report": formats.report,
    "states": machines.states,
    "target-ladders": profiles.ladders,
    "targets": profiles.targets,
    "toolchains": profiles.toolchains,
    "topics": formats.topics,
}
FILES: dict[str, Callable[[], str]] = {
    "reference/asyncapi.json": formats.asyncapi,
    "reference/openapi.json": service.openapi,
    "reference/provenance.schema.json": formats.provenance_schema,
    "reference/report.schema.json": formats.report_schema,
    "reference/wire.schema.json": formats.wire_schema,
}


# The reference speaks of what ships, not of the targets and toolchains of whoever writes it.
os.environ["OUTRIDER_PROFILES"] = ""


def rendered(page: str) -> str:
    """A page with its generated parts made anew."""
    return PART.sub(lambda m: f"{m[1]}\n{PARTS[m[2]]().strip()}\n\n{m[3]}", page)


def stale() -> dict[Path, str]:
    """Files that are out of date, with what they should say."""
    docs = ROOT / "docs"
    wanted = {path: rendered(path.read_text()) for path in sorted(docs.rglob("*.md"))}
    wanted |= {docs / name: make() for name, make in FILES.items()}
    return {
        path: text for path, text in wanted.items() if not path.exists() or path.read_text() != text
    }


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when stale")
    check = parser.parse_args().check
    found = stale()
    for path, text in found.items():
        sys.stdout.write(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}\n")
        if not check:
            path.write_text(text)
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
