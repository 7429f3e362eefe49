"""Installing toolchains: whole or not at all, one at a time."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compiler.errors import CatalogError, ToolchainError
from compiler.toolchains import catalog, install
from compiler.toolchains.catalog import Toolchain
from compiler.toolchains.process import Limits


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain with no packages at all: an environment, and nothing to fetch."""
    monkeypatch.setenv("OUTRIDER_TOOLCHAINS", str(tmp_path / "toolchains"))
    return Toolchain(
        name="empty", title="", driver=tmp_path / "driver.py", locks=(), locks_any_python=(),
        size_mib=0, limits=Limits(wall_s=1, cpu_s=1, memory_mib=64),
    )  # fmt: skip


def with_lock(toolchain: Toolchain, tmp_path: Path, text: str) -> Toolchain:
    lock = tmp_path / "some.lock"
    lock.write_text(text)
    return Toolchain(
        name=toolchain.name, title="", driver=toolchain.driver, locks=(lock,),
        locks_any_python=(), size_mib=0, limits=toolchain.limits,
    )  # fmt: skip


def test_an_environment_is_isolated_and_marked(empty: Toolchain) -> None:
    assert install.install(empty) is True
    assert install.is_installed(empty)
    assert install.install(empty) is False
    script = "import importlib.util as u; print(u.find_spec('numpy'))"
    said = subprocess.run(
        [install.python(empty), "-c", script], check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == "None"
    assert install.remove(empty) == [install.folder(empty)]
    assert not install.is_installed(empty)


@pytest.mark.parametrize("uv", [True, False])
def test_a_failed_install_leaves_nothing(
    empty: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: bool
) -> None:
    if not uv:
        monkeypatch.setattr("shutil.which", lambda _name: None)
    broken = with_lock(empty, tmp_path, "some-package==1.0  # no hash\n")
    with pytest.raises(ToolchainError, match="to install the toolchain, found status"):
        install.install(broken)
    assert not install.folder(broken).exists()


def test_what_an_interrupted_install_left_is_replaced(empty: Toolchain) -> None:
    home = install.folder(empty)
    home.mkdir(parents=True)
    (home / "half").touch()
    assert not install.is_installed(empty)
    assert install.install(empty) is True
    assert not (home / "half").exists()


def test_two_at_once_install_one(empty: Toolchain) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: install.install(empty), range(4)))
    assert sorted(done) == [False, False, False, True]


def test_the_folder_follows_the_locks(empty: Toolchain, tmp_path: Path) -> None:
    one = with_lock(empty, tmp_path, "# one\n").lock_sha256
    other = with_lock(empty, tmp_path, "# two\n").lock_sha256
    assert one != other


def test_every_toolchain_is_described_and_locked_with_hashes() -> None:
    plug_ins = {"edgetpu", "rknn", "qnn", "openvino", "tensorrt"}
    assert set(catalog.names()) == {"litert", "onnx", "tensorrt-rtx", "vela"} | plug_ins
    for name in catalog.names():
        toolchain = catalog.get(name)
        assert toolchain.driver.is_file()
        assert (toolchain.supplied is not None) is (name in plug_ins)
        for lock in (*toolchain.locks, *toolchain.locks_any_python):
            text = lock.read_text()
            pinned = [line for line in text.splitlines() if line and line[0].isalnum()]
            assert pinned
            assert all("==" in line for line in pinned)
            assert text.count("--hash=sha256:") >= len(pinned)
            assert "://" not in text
    with pytest.raises(CatalogError, match="expected a toolchain of edgetpu"):
        catalog.get("nothing")


def test_a_place_that_cannot_be_written_is_said(
    empty: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OUTRIDER_TOOLCHAINS", str(tmp_path / "file" / "below"))
    with pytest.raises(ToolchainError, match="set OUTRIDER_TOOLCHAINS"):
        install.install(empty)
