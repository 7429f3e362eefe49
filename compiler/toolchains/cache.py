"""Answers of drivers, kept by content.

The key of a driver's answer is everything that the answer depends on: the lock of the toolchain, the driver's own text, the
operation, its options and the digest of every input file (model and calibration samples among them).

Rules:
- An entry appears whole or not at all, and is checked against its digests when it is read.
- What fails is not kept, nor what a tool of the user's made: no lock says what that tool is, and what it makes
  can depend on the host's driver and hardware.
- The oldest entries go when the cache grows beyond its bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compiler.toolchains import driver
from compiler.toolchains.catalog import Toolchain
from compiler.toolchains.driver import Answer, OnProgress

MAX_BYTES: Final = 4 << 30
_ENTRY: Final = "entry.json"


def root() -> Path:
    """Where answers are kept: ``OUTRIDER_CACHE``, else below the user's cache folder."""
    chosen = os.environ.get("OUTRIDER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "outrider" / "builds"


def call(
    toolchain: Toolchain,
    operation: str,
    *,
    files: Mapping[str, bytes],
    options: Mapping[str, Any],
    on_progress: OnProgress = driver.unheard,
) -> Answer:
    """As `driver.call`, from the cache where it has the answer.

    Raises:
        ToolchainMissingError: the toolchain is not installed.
        BuildError: the driver failed.
    """
    if toolchain.supplied is not None:
        return driver.call(
            toolchain, operation, files=files, options=options, on_progress=on_progress
        )
    found = _key(toolchain, operation, files, options)
    kept = read(found)
    if kept is not None:
        return kept
    answer = driver.call(
        toolchain, operation, files=files, options=options, on_progress=on_progress
    )
    keep(found, answer)
    return answer


def _key(
    toolchain: Toolchain, operation: str, files: Mapping[str, bytes], options: Mapping[str, Any]
) -> str:
    content = {
        "lock": toolchain.lock_sha256,
        "driver": toolchain.driver_sha256,
        "operation": operation,
        "options": dict(options),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(key: str) -> Answer | None:
    """What is kept under a key; None when there is nothing, or something damaged."""
    entry = root() / key
    try:
        kept = json.loads((entry / _ENTRY).read_bytes())
        files = {}
        for name, digest in kept["files"].items():
            data = (entry / digest).read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                return None
            files[name] = data
        os.utime(entry)
        return Answer(files=files, info=kept["info"], wall_s=0.0, peak_memory_mib=0.0)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def keep(key: str, answer: Answer) -> None:
    """Keep an answer; a cache that cannot be written is no reason to fail."""
    entry = root() / key
    try:
        root().mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".part-", dir=root()))
    except OSError:
        return
    try:
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in answer.files.items()}
        for name, digest in digests.items():
            (partial / digest).write_bytes(answer.files[name])
        (partial / _ENTRY).write_text(json.dumps({"files": digests, "info": answer.info}))
        shutil.rmtree(entry, ignore_errors=True)
        partial.replace(entry)
        _prune()
    except OSError:
        return
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _prune() -> None:
    entries = []
    for path in root().iterdir():
        if path.is_dir() and not path.name.startswith("."):
            size = sum(file.stat().st_size for file in path.iterdir())
            entries.append((path.stat().st_mtime, size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= MAX_BYTES:
            return
        shutil.rmtree(path, ignore_errors=True)
        total -= size
