"""A real PostgreSQL server for tests: its own cluster in a folder, on a Unix socket only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 60


@contextmanager
def server(binaries: Path) -> Iterator[str]:
    """Start a cluster; yields the SQLAlchemy URL of its one, empty database, and removes everything after.

    PostgreSQL refuses to run as root: then its programs run as the user ``postgres``.
    """
    folder = Path(tempfile.mkdtemp(prefix="outrider-pg-"))
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres", "postgres")

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(binaries / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, timeout=120, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    data = folder / "data"
    try:
        run("initdb", "-D", str(data), "-U", "outrider", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        # `pg_ctl start` must not inherit our pipes, or it would hold them open for ever.
        start = ["start", "-D", str(data), "-w", "-t", str(_START_S), "-o", options]
        run("pg_ctl", *start, "-l", str(folder / "log"))
        try:
            yield f"postgresql+psycopg://outrider@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "-D", str(data), "-m", "immediate", "-w")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
