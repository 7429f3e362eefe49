"""The client under test: `tuf-client`, or any command that `OUTRIDER_TUF_CLIENT` names.

Without the variable the client's `main` runs in this process, which is faster by a factor of twenty;
`test_protocol` starts the executable as a suite would.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tuf_repository import Repository, served

from ota.metadata import documents

CLIENT = Path(__file__).resolve().parents[1] / "tuf-client"


def load():
    """The executable as a module."""
    loader = importlib.machinery.SourceFileLoader("tuf_client", str(CLIENT))
    spec = importlib.util.spec_from_file_location("tuf_client", CLIENT, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = written
    return module


class Client:
    """A client with folders of its own, before one repository."""

    def __init__(self, repository: Repository, url: str, folder: Path) -> None:
        self.repository = repository
        self.url = url
        self.metadata = folder / "metadata"
        self.targets = folder / "targets"
        self.metadata.mkdir()
        self.targets.mkdir()
        self._root = folder / "trusted_root.json"

    def run(self, *arguments: str) -> int:
        command = shlex.split(os.environ.get("OUTRIDER_TUF_CLIENT", ""))
        if command:
            return subprocess.run([*command, *arguments], check=False).returncode
        return load().main(list(arguments))

    def init(self, root: bytes | None = None) -> int:
        data = self.repository.metadata("root", 1) if root is None else root
        assert data is not None
        self._root.write_bytes(data)
        return self.run("--metadata-dir", str(self.metadata), "init", str(self._root))

    def refresh(self) -> int:
        return self.run(
            "--metadata-dir", str(self.metadata), "--metadata-url", f"{self.url}/metadata/", "refresh"
        )  # fmt: skip

    def download(self, *names: str) -> int:
        return self.run(
            "--metadata-dir", str(self.metadata), "--metadata-url", f"{self.url}/metadata/",
            *(word for name in names for word in ("--target-name", name)),
            "--target-base-url", f"{self.url}/targets/", "--target-dir", str(self.targets), "download",
        )  # fmt: skip

    def kept(self, role: str) -> bytes | None:
        path = self.metadata / f"{role}.json"
        return path.read_bytes() if path.exists() else None

    def version(self, role: str) -> int | None:
        data = self.kept(role)
        return None if data is None else documents.version_of(data, name=role)

    @property
    def versions(self) -> dict[str, int]:
        """Version of each document that is kept, by file name without its suffix."""
        return {
            path.stem: documents.version_of(path.read_bytes(), name=path.name)
            for path in sorted(self.metadata.glob("*.json"))
            if path.is_file()
        }

    @property
    def files(self) -> list[bytes]:
        """Contents of the downloaded files, sorted."""
        return sorted(path.read_bytes() for path in self.targets.rglob("*") if path.is_file())


@pytest.fixture
def repository() -> Repository:
    return Repository(time.time())


@pytest.fixture
def client(repository, tmp_path):
    """A client that was initialised with the repository's first root."""
    with served(repository) as url:
        client = Client(repository, url, tmp_path)
        assert client.init() == 0
        yield client
