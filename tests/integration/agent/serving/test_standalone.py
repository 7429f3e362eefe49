"""Serving files without a cloud."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from support import artifacts, oip

from agent.errors import ConfigError, LoadError
from agent.serving import standalone
from agent.serving.listener import open_listener, url_of
from agent.serving.standalone import Options
from fleet.errors import ManifestError, OutriderError

pytestmark = pytest.mark.agent
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def _plug_ins_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))


def save(folder: Path, name: str) -> Path:
    path = folder / f"{name}.outrider"
    artifacts.save(artifacts.classify(model=name), path)
    return path


async def infer(url: str) -> oip.Answer:
    parts = urlsplit(url)
    client = await oip.Client.connect((parts.hostname, parts.port))
    try:
        body = oip.infer_json(artifacts.images(1))
        client.send(oip.request("POST", f"{parts.path}/infer", body))
        return await client.answer()
    finally:
        await client.close()


def test_several_files_are_served_restarted_and_ended(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(standalone, "FIRST_PAUSE_S", 0.1)
    files = [save(tmp_path, "cats"), save(tmp_path, "dogs")]
    told: list[str] = []

    def urls() -> list[str]:
        return [word for line in told for word in line.split() if word.startswith("http")]

    async def story() -> None:
        serving = asyncio.create_task(standalone.serve(files, Options(), told.append))
        await oip.until(lambda: len(urls()) == 2 or serving.done())
        assert not serving.done(), serving.exception()
        for name, url in zip(("cats", "dogs"), urls(), strict=True):
            assert url.startswith("http://127.0.0.1:")
            assert (await infer(url)).json["model_name"] == name
        children = psutil.Process().children()
        assert len(children) == 2
        os.kill(children[0].pid, signal.SIGKILL)
        await oip.until(lambda: len(urls()) == 3)
        assert any("signal 9" in line for line in told)
        for url in urls():
            assert (await infer(url)).status == 200
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not psutil.Process().children()

    asyncio.run(story())


def expect(error: type[OutriderError], match: str, *files: Path, **options) -> None:
    async def story() -> None:
        serving = standalone.serve(files, Options(**options), lambda _: None)
        with pytest.raises(error, match=match):
            await asyncio.wait_for(serving, 60)

    asyncio.run(story())
    assert not psutil.Process().children()


def test_what_cannot_be_served_says_why(tmp_path: Path) -> None:
    good = save(tmp_path, "good")
    junk = tmp_path / "junk.outrider"
    junk.write_bytes(b"junk")
    expect(ManifestError, "expected an artifact, found none", tmp_path / "none.outrider")
    expect(ManifestError, "not an artifact", junk)
    expect(LoadError, "golden self-test failed", good, runtime_wrapper="support.plug_ins:wrong")
    expect(ConfigError, "expected an address to listen on", good, host="no.such.host.invalid")


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    listener = open_listener()
    try:
        port = listener.getsockname()[1]
        assert url_of(listener) == f"http://127.0.0.1:{port}"
        expect(ConfigError, "choose another port", save(tmp_path, "good"), port=port)
    finally:
        listener.close()


def test_ports_out_of_range_are_told() -> None:
    with pytest.raises(ConfigError, match="found 70000"):
        open_listener("127.0.0.1", 70000)
