"""The fault adapters do what they say, and nothing when they are not asked."""

import os
import socket
import socketserver
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simulator.faults import lens, runtime
from simulator.faults.relay import Relay


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(1024):
            self.request.sendall(data)


@pytest.fixture
def relay():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        relay = Relay(*server.server_address)
        yield relay
        relay.close()
        server.shutdown()
        thread.join()


def ask(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(data)
        return client.recv(1024)


def refused(port: int) -> bool:
    try:
        return ask(port, b"lost") == b""
    except ConnectionError:
        return True


def test_relay_passes_bytes_until_it_is_cut_and_again_when_it_is_mended(relay):
    assert ask(relay.port, b"hello") == b"hello"
    with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        relay.cut()
        assert client.recv(1) == b""
    assert refused(relay.port)
    relay.mend()
    assert ask(relay.port, b"back") == b"back"


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.float32]),
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=2, max_side=6),
        elements=st.integers(0, 100),
    )
)
def test_a_dirty_lens_keeps_shape_dtype_and_range(raw):
    seen = lens.dirty(raw, np.random.default_rng(0))
    assert (seen.shape, seen.dtype) == (raw.shape, raw.dtype)
    assert raw.min() <= seen.min()
    assert seen.max() <= raw.max()


class Fixed:
    def __init__(self) -> None:
        self.closed = False

    def run(self, feeds):
        return {"y": np.array([[0.0, 1.0, 0.0]])}

    def close(self):
        self.closed = True


class Artifact:
    def __init__(self, model, version) -> None:
        manifest = type("Manifest", (), {"model": model, "version": version})
        self.package = type("Package", (), {"manifest": manifest})


@pytest.mark.parametrize(("version", "answer"), [("1", 1), ("2", 2)])
def test_wrong_answers_come_only_for_the_chosen_release(monkeypatch, version, answer):
    monkeypatch.setitem(os.environ, runtime.RELEASES_VARIABLE, "other@2, digits@2")
    inner = Fixed()
    wrapped = runtime.wrong_answers(inner, Artifact("digits", version))
    assert wrapped.run({})["y"].argmax() == answer
    wrapped.close()
    assert inner.closed
