"""The registry: what is here, what is not, and plug-ins."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import artifacts

from agent.errors import ConfigError, LoadError, RuntimeMissingError
from agent.runtimes import litert, registry

pytestmark = pytest.mark.agent


def test_report_imports_no_runtime() -> None:
    code = (
        "import sys; from agent.runtimes import registry; print(registry.available());"
        "sys.exit(any(m in sys.modules for m in ('ai_edge_litert','tflite_runtime','onnxruntime')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "litert" in done.stdout
    assert "onnxruntime" in done.stdout


def test_report_says_version_or_reason(monkeypatch) -> None:
    for info in registry.available():
        assert (info.available and info.version) or (
            not info.available and "install" in info.reason
        )
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    assert [i.name for i in registry.available()] == registry.names()
    assert all(not i.available and "is installed;" in i.reason for i in registry.available())


def test_unknown_runtime_is_named() -> None:
    content = artifacts.classify(runtime="abacus")
    with pytest.raises(RuntimeMissingError, match="'abacus'"):
        registry.open_runtime(artifacts.verified(content))


@pytest.mark.parametrize("file", ["classify.onnx", "classify.tflite"])
def test_missing_runtime_is_an_error_that_helps(monkeypatch, file: str) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in litert.MODULES:
        monkeypatch.setitem(sys.modules, f"{name}.interpreter", None)
    with pytest.raises(RuntimeMissingError, match=r"install outrider\["):
        registry.open_runtime(artifacts.verified(artifacts.classify(file)))


class Passive:
    """A runtime that is only passed on."""

    def run(self, feeds):
        return dict(feeds)

    def close(self) -> None:
        """Nothing to free."""


def test_plug_in_is_put_around_the_runtime() -> None:
    artifact = artifacts.verified(artifacts.classify())
    inner = Passive()
    assert registry.wrap(inner, artifact, "") is inner
    outer = registry.wrap(inner, artifact, "support.plug_ins:slow")
    assert outer.inner is inner


@pytest.mark.parametrize(
    "name", ["nonsense", "a b:c", "no.such.module:f", "support.plug_ins:none", ":f", "m:"]
)
def test_plug_in_that_cannot_be_found_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match="runtime_wrapper"):
        registry.wrap(Passive(), artifacts.verified(artifacts.classify()), name)


def test_plug_in_that_fails_is_a_load_error() -> None:
    with pytest.raises(LoadError, match="refuses"):
        registry.wrap(
            Passive(), artifacts.verified(artifacts.classify()), "support.plug_ins:refuse"
        )
