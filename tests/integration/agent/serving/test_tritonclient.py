"""An existing client of the protocol, unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from support import artifacts, oip

from fleet.artifact.manifest import InputSpec, TensorSpec

pytest.importorskip("onnxruntime")
triton = pytest.importorskip("tritonclient.http", reason="tritonclient is in the dev extra only")
utils = pytest.importorskip("tritonclient.utils")

DATATYPES = {
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    **{f"{u}int{n}": f"{u.upper()}INT{n}" for u in ("", "u") for n in (8, 16, 32, 64)},
}  # fmt: skip


def run(content, story: Callable[[triton.InferenceServerClient], None]) -> None:
    """Run a blocking story with a client against a served artifact."""

    async def outer() -> None:
        async with oip.serving(content) as served:
            host, port = served.address

            def inner() -> None:
                with triton.InferenceServerClient(f"{host}:{port}") as client:
                    story(client)

            await asyncio.to_thread(inner)

    asyncio.run(outer())


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infers(binary_in: bool, binary_out: bool) -> None:
    batch = artifacts.images(3)

    def story(client: triton.InferenceServerClient) -> None:
        image = triton.InferInput("image", list(batch.shape), "FP32")
        image.set_data_from_numpy(batch, binary_data=binary_in)
        wanted = triton.InferRequestedOutput("probs", binary_data=binary_out)
        answer = client.infer("classify", [image], outputs=[wanted], request_id="17")
        np.testing.assert_allclose(
            answer.as_numpy("probs"), artifacts.probabilities(batch), atol=1e-5
        )
        assert answer.get_response()["id"] == "17"
        unasked = client.infer("classify", [image], model_version="1")
        assert unasked.as_numpy("probs").shape == (3, 4)
        future = client.async_infer("classify", [image])
        assert future.get_result().as_numpy("probs").shape == (3, 4)

    run(artifacts.classify(), story)


def test_every_datatype() -> None:
    inputs = [InputSpec(name=f"{d}_in", dtype=d, shape=[None, 2]) for d in DATATYPES]
    outputs = [TensorSpec(name=f"{d}_out", dtype=d, shape=[None, 2]) for d in DATATYPES]

    def story(client: triton.InferenceServerClient) -> None:
        sent = {d: np.array([[0, 1], [1, 1]]).astype(d) for d in DATATYPES}
        feeds = []
        for dtype, datatype in DATATYPES.items():
            feeds.append(triton.InferInput(f"{dtype}_in", [2, 2], datatype))
            feeds[-1].set_data_from_numpy(sent[dtype])
        answer = client.infer("classify", feeds)
        for dtype, array in sent.items():
            found = answer.as_numpy(f"{dtype}_out")
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, array)

    run(artifacts.make("identity.onnx", inputs, outputs), story)


def test_asks_about_server_and_model() -> None:
    def story(client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("classify")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["name"] == "outrider"
        assert client.get_model_metadata("classify", "1")["inputs"][0]["name"] == "image"
        assert client.get_model_repository_index()[0]["state"] == "READY"
        assert client.get_inference_statistics("classify")["model_stats"][0]["name"] == "classify"
        assert client.get_inference_statistics()["model_stats"][0]["version"] == "1"

    run(artifacts.classify(), story)


def test_errors_reach_the_caller() -> None:
    def story(client: triton.InferenceServerClient) -> None:
        image = triton.InferInput("image", [1, 2], "FP32")
        image.set_data_from_numpy(np.zeros((1, 2), np.float32))
        with pytest.raises(utils.InferenceServerException, match="expected shape") as caught:
            client.infer("classify", [image])
        assert caught.value.status() == "400"
        with pytest.raises(utils.InferenceServerException, match="expected model 'classify'"):
            client.get_model_metadata("other")

    run(artifacts.classify(), story)
