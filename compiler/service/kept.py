"""Whole compiles, kept by content: the same question to the same tools has the same answer.

The key is everything that an output depends on: every file of the model folder, the targets with their
recipes, the toolchains (locks, drivers, whether they are installed), the runtimes that score, this
program's own code, the host, what devices reported, the version asked for, and the key that signs.

Rule: an output in which a tool failed is not kept, because a crash, a timeout or full memory may not happen
again.
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
from compiler.service.report import Report, Verdict
from compiler.targets.catalog import Target
from compiler.toolchains import cache, catalog, install
from compiler.toolchains.driver import Answer

_CODE: Final = (compiler, agent.runtimes, fleet)
_CHUNK_BYTES: Final = 1 << 20


def key(folder: Path, targets: list[Target], *, version: str, figures: Path | None) -> str:
    """Digest of everything that the output depends on."""
    content: dict[str, Any] = {
        "folder": _tree(folder),
        "targets": targets,
        "toolchains": _toolchains(),
        "runtimes": [[info.name, info.version] for info in registry.available()],
        "code": _code(),
        "host": host.describe(),
        "figures": _sha256(figures) if figures else "",
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
    """Keep an output, unless a tool failed in it."""
    tried = [c for t in report.targets for c in (*t.candidates, *t.fallback_candidates)]
    if all(candidate.verdict is not Verdict.FAILED for candidate in tried):
        cache.keep(found, Answer(files=files, info={}, wall_s=0.0, peak_memory_mib=0.0))


def _tree(folder: Path) -> dict[str, str]:
    """Digests of the folder's files by their names."""
    return {
        str(path.relative_to(folder)): _sha256(path)
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
