"""The protocol over real sockets: answers, limits, slow and rude clients, draining."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import artifacts, oip

from agent.serving.oip.http import Limits
from fleet.artifact.manifest import InputSpec, TensorSpec

pytestmark = pytest.mark.agent
pytest.importorskip("onnxruntime")

LIVE = oip.request("GET", "/v2/health/live")
INFER = "/v2/models/classify/infer"


def test_answers_are_the_models_own() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify()) as served:
            client = await served.connect()
            for n in (1, 4):
                batch = artifacts.images(n, seed=n)
                client.send(oip.infer(batch))
                found = oip.outputs(await client.answer())["probs"]
                np.testing.assert_allclose(found, artifacts.probabilities(batch), atol=1e-5)
            await client.close()

    asyncio.run(story())


def test_documents() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify()) as served:
            server = (await served.ask("GET", "/v2")).json
            assert server["name"] == "outrider"
            assert "binary_tensor_data" in server["extensions"]
            assert (await served.ask("GET", "/v2/health/live")).json == {"live": True}
            assert (await served.ask("GET", "/v2/health/ready")).json == {"ready": True}
            model = (await served.ask("GET", "/v2/models/classify/versions/1")).json
            assert model["versions"] == ["1"]
            assert model["inputs"] == [
                {"name": "image", "datatype": "FP32", "shape": [-1, 3, 8, 8]}
            ]
            assert model["outputs"] == [{"name": "probs", "datatype": "FP32", "shape": [-1, 4]}]
            assert (await served.ask("GET", "/v2/models/classify/ready")).json["ready"]
            index = (await served.ask("POST", "/v2/repository/index", b"{}")).json
            assert index == [{"name": "classify", "version": "1", "state": "READY", "reason": ""}]
            await served.ask("POST", INFER, oip.infer_json(artifacts.images(3)))
            stats = (await served.ask("GET", "/v2/models/classify/stats")).json["model_stats"][0]
            assert (stats["inference_count"], stats["execution_count"]) == (3, 1)
            assert stats["inference_stats"]["success"]["ns"] > 0

    asyncio.run(story())


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("GET", "/", b"", 404, "Open Inference Protocol"),
        ("GET", "/v2/models/other", b"", 404, "expected model 'classify', found 'other'"),
        ("POST", "/v2/models/classify/versions/9/infer", b"{}", 404, "expected version '1'"),
        ("GET", INFER, b"", 405, "expected POST"),
        ("POST", INFER, b"nonsense", 400, "inference request as JSON"),
        ("POST", INFER, b'{"inputs":[]}', 400, "expected the inputs ['image'], found []"),
        ("POST", INFER, oip.infer_json(np.zeros((1, 3, 8, 9))), 400, "shape [any, 3, 8, 8]"),
        ("POST", INFER, oip.infer_json(np.zeros((1, 3, 8, 8)), datatype="FP64"), 400, "float32"),
        ("POST", INFER, oip.infer_json(np.zeros((0, 3, 8, 8))), 400, "a batch of at least 1"),
    ],
)
def test_refusals_say_what_is_wrong(method, path, body, status, told) -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify()) as served:
            answer = await served.ask(method, path, body)
            assert answer.status == status
            assert told in answer.json["error"]
            figures = served.model.statistics.take()
            assert (figures.inferences, figures.errors) == (0, 0)

    asyncio.run(story())


def test_compressed_bodies_are_declined() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify()) as served:
            answer = await served.ask("POST", INFER, b"\x1f\x8b", content_encoding="gzip")
            assert answer.status == 415

    asyncio.run(story())


def test_raw_and_own_tensors_give_the_same_answers() -> None:
    raw = np.random.default_rng(3).integers(0, 256, (2, 8, 8, 3), np.uint8)
    tensor = ((raw.astype(np.float32) - 128) / 64).transpose(0, 3, 1, 2)

    async def story() -> None:
        async with oip.serving(artifacts.classify(inputs=[artifacts.RAW_IMAGE])) as served:
            one = await served.ask("POST", INFER, oip.infer_json(raw, datatype="UINT8"))
            two = await served.ask("POST", INFER, oip.infer_json(tensor))
            expected = artifacts.probabilities(tensor)
            np.testing.assert_allclose(oip.outputs(one)["probs"], expected, atol=1e-5)
            np.testing.assert_allclose(oip.outputs(two)["probs"], expected, atol=1e-5)
            wrong = await served.ask(
                "POST", INFER, oip.infer_json(raw.transpose(0, 3, 1, 2), datatype="UINT8")
            )
            assert wrong.status == 400
            assert "raw data of shape [-1, 8, 8, 3]" in wrong.json["error"]
            model = (await served.ask("GET", "/v2/models/classify")).json
            assert model["inputs"] == [
                {
                    "name": "image",
                    "datatype": "UINT8",
                    "shape": [-1, 8, 8, 3],
                    "parameters": {"model_datatype": "FP32", "model_shape": [-1, 3, 8, 8]},
                }
            ]

    asyncio.run(story())


def test_figures_count_samples_features_and_classes() -> None:
    batches = [artifacts.images(n, seed=n) for n in (1, 2, 5)]
    everything = np.concatenate(batches)

    async def story() -> None:
        async with oip.serving(artifacts.classify()) as served:
            for batch in batches:
                assert (await served.ask("POST", INFER, oip.infer_json(batch))).status == 200
            await served.thread.run(lambda: None)
            figures = served.model.statistics.take()
            assert (figures.inferences, figures.errors, figures.latency_ms.count) == (8, 0, 3)
            feature = figures.features["input:image:mean"]
            assert feature.count == 8
            assert feature.mean == pytest.approx(everything.mean(), abs=1e-5)
            answers = artifacts.probabilities(everything).argmax(1).tolist()
            assert figures.classes == {c: answers.count(c) for c in set(answers)}
            again = served.model.statistics.take()
            assert (again.inferences, again.features["input:image:mean"].count) == (0, 0)

    asyncio.run(story())


def test_a_failing_model_is_an_error_of_the_server_and_counted() -> None:
    async def story() -> None:
        content = artifacts.classify()
        async with oip.serving(content, plug_in="support.plug_ins:broken") as served:
            answer = await served.ask("POST", INFER, oip.infer_json(artifacts.images(1)))
            assert answer.status == 500
            assert "the runtime failed" in answer.json["error"]
            assert served.model.statistics.take().errors == 1

    asyncio.run(story())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), Limits(pipelined=2)) as served:
            client = await served.connect()
            batches = [artifacts.images(1, seed=i) for i in range(20)]
            client.send(b"".join(oip.infer(batch) for batch in batches) + LIVE)
            for batch in batches:
                found = oip.outputs(await client.answer())["probs"]
                np.testing.assert_allclose(found, artifacts.probabilities(batch), atol=1e-5)
            assert (await client.answer()).json == {"live": True}
            await client.close()

    asyncio.run(story())


def test_the_loop_answers_while_the_model_works() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), plug_in="support.plug_ins:hang") as served:
            busy = await served.connect()
            busy.send(oip.infer(artifacts.images(1)))
            await oip.until(lambda: served.thread.pending)
            assert (await served.ask("GET", "/v2/health/live")).status == 200
            assert served.thread.pending
            await busy.close()

    asyncio.run(story())


def test_beyond_the_queue_the_answer_is_503_at_once() -> None:
    async def story() -> None:
        async with oip.serving(
            artifacts.classify(), Limits(queued=2), plug_in="support.plug_ins:hang"
        ) as served:
            waiting = [await served.connect() for _ in range(2)]
            for client in waiting:
                client.send(oip.infer(artifacts.images(1)))
            await oip.until(lambda: served.thread.pending == 2)
            for _ in range(3):
                refused = await served.ask("POST", INFER, oip.infer_json(artifacts.images(1)))
                assert refused.status == 503
                assert refused.headers["retry-after"] == "1"
                assert "2 inferences wait already" in refused.json["error"]
            assert served.model.statistics.take().errors == 0
            for client in waiting:
                await client.close()

    asyncio.run(story())


QUICK = Limits(header_s=0.4, body_s=0.4, idle_s=1.0, write_s=0.4, body_bytes=4096)


@pytest.mark.parametrize(
    "sent",
    [b"GET /v2 HT", b"POST /v2 HTTP/1.1\r\ncontent-length: 5\r\n\r\nab"],
    ids=["headers", "body"],
)
def test_slow_requests_are_ended(sent: bytes) -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), QUICK) as served:
            client = await served.connect()
            client.send(sent)
            answer = await client.answer()
            assert answer.status == 408
            assert answer.headers["connection"] == "close"
            assert await client.ended() == b""
            await client.close()
            assert (await served.ask("GET", "/v2/health/live")).status == 200

    asyncio.run(story())


def test_idle_connections_are_closed() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), QUICK) as served:
            silent, done = await served.connect(), await served.connect()
            done.send(LIVE)
            assert (await done.answer()).status == 200
            assert await silent.ended() == b""
            assert await done.ended() == b""
            await silent.close()
            await done.close()

    asyncio.run(story())


def test_a_client_that_takes_no_answers_is_cut() -> None:
    inputs = [InputSpec(name=f"{d}_in", dtype=d, shape=[None, 2]) for d in artifacts.DTYPES]
    big = [TensorSpec(name="float64_out", dtype="float64", shape=[None, 2])]
    n = 1_000_000
    items, tail = [], b""
    for spec in inputs:
        array = np.ones((n, 2), spec.dtype)
        datatype = {"bool": "BOOL", "f": "FP", "i": "INT", "u": "UINT"}
        name = datatype.get(spec.dtype) or datatype[spec.dtype[0]] + str(8 * array.itemsize)
        items.append(
            {
                "name": spec.name,
                "shape": [n, 2],
                "datatype": name,
                "parameters": {"binary_data_size": array.nbytes},
            }
        )
        tail += array.tobytes()
    head = json.dumps({"inputs": items, "parameters": {"binary_data_output": True}}).encode()
    body = head + tail

    async def story() -> None:
        limits = Limits(write_s=0.3, body_bytes=len(body), buffered_bytes=len(body))
        content = artifacts.make("identity.onnx", inputs, big)
        async with oip.serving(content, limits) as served:
            client = await served.connect()
            client.writer.transport.pause_reading()
            client.send(
                oip.request("POST", INFER, body, inference_header_content_length=str(len(head)))
            )
            await oip.until(lambda: served.model.statistics.totals.requests)
            await oip.until(lambda: not (served.server.connections))
            await client.close()
            assert (await served.ask("GET", "/v2/health/live")).status == 200

    asyncio.run(asyncio.wait_for(story(), 60))


def test_too_large_bodies_are_refused_before_they_are_sent() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), QUICK) as served:
            client = await served.connect()
            client.send(b"POST /v2 HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + bytes(900_000))
            assert (await client.answer()).status == 413
            await client.close()

    asyncio.run(story())


def test_clients_that_ask_first_are_told_to_go_on() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify()) as served:
            client = await served.connect()
            body = oip.infer_json(artifacts.images(1))
            whole = oip.request("POST", INFER, body, expect="100-continue")
            client.send(whole[: -len(body)])
            assert (await client.answer()).status == 100
            client.send(body)
            assert (await client.answer()).status == 200
            await client.close()

    asyncio.run(story())


def test_a_client_that_has_closed_its_side_is_still_answered() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), plug_in="support.plug_ins:slow") as served:
            client = await served.connect()
            client.send(oip.infer(artifacts.images(1)))
            client.writer.write_eof()
            assert (await client.answer()).status == 200
            assert await client.ended() == b""
            await client.close()

    asyncio.run(story())


def test_clients_that_leave_cost_nothing() -> None:
    async def story() -> None:
        limits = Limits(buffered_bytes=20_000)
        async with oip.serving(
            artifacts.classify(), limits, plug_in="support.plug_ins:slow"
        ) as served:
            body = oip.infer(artifacts.images(1))
            for cut in (10, 200, len(body) - 1, len(body), len(body)):
                client = await served.connect()
                client.send(body[:cut])
                await client.writer.drain()
                client.writer.transport.abort()
            await oip.until(lambda: not (served.server.connections or served.thread.pending))
            big = oip.infer_json(artifacts.images(4))
            assert len(big) > 10_000
            assert (await served.ask("POST", INFER, big)).status == 200

    asyncio.run(asyncio.wait_for(story(), 60))


def test_too_many_connections_are_told_so() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), Limits(connections=2)) as served:
            first, second = await served.connect(), await served.connect()
            for client in (first, second):
                client.send(LIVE)
                assert (await client.answer()).status == 200
            third = await served.connect()
            assert (await third.answer()).status == 503
            await first.close()
            await oip.until(lambda: not (served.server.connections > 1))
            assert (await served.ask("GET", "/v2/health/live")).status == 200
            await second.close()
            await third.close()

    asyncio.run(story())


def test_draining_answers_what_comes_and_then_ends() -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), plug_in="support.plug_ins:slow") as served:
            busy, idle, silent = [await served.connect() for _ in range(3)]
            for client in (idle, silent):
                client.send(LIVE)
                assert (await client.answer()).status == 200
            busy.send(oip.infer(artifacts.images(1)))
            await oip.until(lambda: served.thread.pending)
            draining = asyncio.create_task(served.server.drain(idle_s=1.0, limit_s=10.0))
            await asyncio.sleep(0)
            assert not oip.is_listening(served.address)
            idle.send(oip.infer(artifacts.images(1)))
            for client in (busy, idle):
                answer = await client.answer()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert await client.ended() == b""
            assert await silent.ended() == b""
            await draining
            for client in (busy, idle, silent):
                await client.close()

    asyncio.run(story())


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.binary(max_size=300)
        | st.sampled_from(
            [
                b"POST /v2/models/classify/infer HTTP/1.1\r\n",
                b"content-length: 20\r\n",
                b"inference-header-content-length: 7\r\n",
                b"\r\n",
                b'{"inputs":[{"name":"image"',
                LIVE,
            ]
        ),
        max_size=8,
    )
)
def test_junk_is_answered_or_cut_and_the_server_goes_on(pieces: list[bytes]) -> None:
    async def story() -> None:
        async with oip.serving(artifacts.classify(), QUICK) as served:
            client = await served.connect()
            for piece in pieces:
                client.send(piece)
            client.writer.write_eof()
            while True:
                try:
                    answer = await client.answer()
                except EOFError:
                    break
                assert answer.status in (200, 100) or 400 <= answer.status < 500
            await client.close()
            assert (await served.ask("GET", "/v2/health/live")).status == 200

    asyncio.run(story())
