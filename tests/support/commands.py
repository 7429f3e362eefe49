"""The command `outrider` as a process, pointed at a test's server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.served import Served

from cloud.auth.roles import Role


@dataclass
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


def runner(server: Served, home: Path) -> Run:
    """Runs `outrider` in an empty home, pointed at the server by its environment."""
    environment = {
        **os.environ, "HOME": str(home), "OUTRIDER_URL": server.url, "COLUMNS": "200",
        "OUTRIDER_TOKEN": server.tokens[Role.ADMIN],
    }  # fmt: skip
    environment.pop("OUTRIDER_DATA", None)

    def one(*words: str, **changes: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "fleet.cli.root", *words],
            capture_output=True, text=True, timeout=60, env=environment | changes, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return one
