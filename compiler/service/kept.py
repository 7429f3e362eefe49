"""Whole compiles, kept by content: the same question to the same tools has the same answer.

The key is everything that an output depends on: every file of the model folder, the targets with their
recipes, the toolchains (locks, drivers, whether they are installed), the runtimes that score, this
program's own code, the host, what devices reported, the version asked for, and the key that signs.

Rules:
- An output in which a tool failed is not kept: a crash, a timeout or full memory may not happen again.
- Nor is one in which a tool of the user's had a part: as in `toolchains.cache`, no lock says what that tool is.
"""

from __future__ import annotations

import hashlib
from functools import cache as once
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import msgspec

import agent.runtimes
import compiler
import fleet
from agent.runtimes import registry
from compiler.provenance import keys
from compiler.service import host, output
from compiler.service.prepare import sha256_of
from compiler.service.report import Report, Verdict
from compiler.targets.catalog import Target
from compiler.toolchains import cache, catalog, install
from compiler.toolchains.driver import Answer

_CODE: Final = (compiler, agent.runtimes, fleet)


def key(folder: Path, targets: list[Target], *, version: str, figures: Path | None) -> str:
    """Digest of everything that the output depends on."""
    content: dict[str, Any] = {
        "folder": _tree(folder),
        "targets": targets,
        "toolchains": _toolchains(),
        "runtimes": [[info.name, info.version] for info in registry.available()],
        "code": _code(),
        "host": host.describe(),
        "figures": sha256_of(figures) if figures else "",
        "version": version,
        "signer": keys.signer().key_id,
    }
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def get(found: str) -> tuple[Report, dict[str, bytes]] | None:
    """The report and all files of a kept output."""
    answer = cache.read(found)
    if answer is None:
        return None
    try:
        report = msgspec.json.decode(answer.files[output.REPORT], type=Report)
    except (KeyError, msgspec.DecodeError):
        return None
    return report, answer.files


def put(found: str, report: Report, files: dict[str, bytes]) -> None:
    """Keep an output, unless a tool failed in it, or one of the user's had a part in it."""
    tried = [c for t in report.targets for c in (*t.candidates, *t.fallback_candidates)]
    failed = any(candidate.verdict is Verdict.FAILED for candidate in tried)
    tools = {name for candidate in tried for name in candidate.tools}
    if not failed and all(catalog.get(name).supplied is None for name in tools):
        cache.keep(found, Answer(files=files, info={}, wall_s=0.0, peak_memory_mib=0.0))


def _tree(folder: Path) -> dict[str, str]:
    """Digests of the folder's files by their names."""
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _toolchains() -> dict[str, list[str]]:
    found = {}
    for name in catalog.names():
        toolchain = catalog.get(name)
        installed = "installed" if install.is_installed(toolchain) else ""
        found[name] = [toolchain.lock_sha256, toolchain.driver_sha256, installed]
    return found


@once
def _code() -> str:
    """Digest of this program, as far as it has a part in an output."""
    digest = hashlib.sha256(version_of("outrider").encode())
    for package in _CODE:
        for root in sorted(package.__path__):
            for path in sorted(Path(root).rglob("*")):
                if path.suffix in {".py", ".toml", ".lock"}:
                    digest.update(path.read_bytes())
    return digest.hexdigest()
