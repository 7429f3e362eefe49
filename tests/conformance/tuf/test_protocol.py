"""The executable itself: its commands, its exit status, and that it starts from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tuf_repository import served

pytestmark = pytest.mark.agent

CLIENT = Path(__file__).resolve().parents[1] / "tuf-client"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Start it by its name, with the interpreter of this test run first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(CLIENT), *arguments],
        cwd=cwd, env={"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_three_commands(repository, tmp_path):
    repository.add("targets", "folder/file", b"content")
    repository.update("targets")
    (tmp_path / "root.json").write_bytes(repository.metadata("root", 1))
    (tmp_path / "targets").mkdir()
    with served(repository) as url:
        assert run("--metadata-dir", "m", "init", "root.json", cwd=tmp_path).returncode == 0
        assert repository.asked == []
        refreshed = run(
            "--metadata-url", f"{url}/metadata", "--metadata-dir", "m", "refresh", cwd=tmp_path
        )
        assert (refreshed.returncode, refreshed.stderr) == (0, "")
        common = (
            "--metadata-url", f"{url}/metadata/", "--metadata-dir", "m",
            "--target-base-url", f"{url}/targets", "--target-dir", "targets",
        )  # fmt: skip
        done = run(*common, "--target-name", "folder/file", "download", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        failed = run(*common, "--target-name", "nowhere", "download", cwd=tmp_path)
        assert failed.returncode == 1
        assert failed.stderr.startswith("tuf-client: nowhere: expected a target")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "root.json", "snapshot.json", "targets.json", "timestamp.json",
    ]  # fmt: skip
    assert [path.read_bytes() for path in (tmp_path / "targets").iterdir()] == [b"content"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("refresh",),
        ("--metadata-dir", "m", "refresh"),
        ("--metadata-dir", "m", "download"),
        ("--metadata-dir", "m", "init", "missing.json"),
        ("--metadata-dir", "m", "init", "junk.json"),
        ("--metadata-dir", "nowhere", "--metadata-url", "http://127.0.0.1:1/", "refresh"),
    ],
)
def test_bad_use_is_status_1_and_leaves_nothing(tmp_path, arguments):
    (tmp_path / "junk.json").write_bytes(b"{}")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/", "https://127.0.0.1/", "http:///x", "http://a.b/"]
)
def test_only_the_loopback_is_asked(client, url):
    client.url = url
    assert client.refresh() == 1


def test_a_server_that_is_not_there_is_status_1(repository, client):
    client.url = "http://127.0.0.1:1"
    assert client.refresh() == 1
    assert client.versions == {"root": 1}
