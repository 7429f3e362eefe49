"""A small client of the Open Inference Protocol over HTTP, with the binary tensor extension.

https://github.com/kserve/open-inference-protocol (specification/protocol/inference_rest.md) and the
binary extension of https://github.com/triton-inference-server/server (docs/protocol).
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from fleet.errors import NetworkError

_DATATYPES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "float16": "FP16", "float32": "FP32",
    "float64": "FP64",
}  # fmt: skip
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items()}

Arrays = dict[str, NDArray[np.generic]]


class RefusedError(NetworkError):
    """The server answered with an error, or not at all."""

    code = "demo.refused"


class Client:
    """One keep-alive connection to one served model."""

    def __init__(self, url: str, model: str, *, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s
        )
        self._path = f"/v2/models/{model}"

    def metadata(self) -> dict[str, Any]:
        """The model's metadata."""
        status, _, body = self._exchange("GET", self._path, b"", {})
        return dict(json.loads(_checked(status, body)))

    def infer(self, feeds: Arrays) -> Arrays:
        """One request; names, dtypes and shapes are the caller's.

        Raises:
            RefusedError: an error status, or no answer.
        """
        inputs, chunks = [], []
        for name, array in feeds.items():
            data = np.ascontiguousarray(array).tobytes()
            parameters = {"binary_data_size": len(data)}
            datatype = _DATATYPES[array.dtype.name]
            inputs.append(
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": datatype,
                    "parameters": parameters,
                }
            )
            chunks.append(data)
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {
            "Inference-Header-Content-Length": str(len(head)),
            "Content-Type": "application/octet-stream",
        }
        status, answer, body = self._exchange(
            "POST", self._path + "/infer", b"".join([head, *chunks]), headers
        )
        return _outputs(_checked(status, body), answer.get("inference-header-content-length"))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _exchange(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; once more on a fresh connection when a kept one had been closed meanwhile."""
        for attempt in (0, 1):
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, path, body, headers)
                response = self._connection.getresponse()
                answer = {k.lower(): v for k, v in response.getheaders()}
                return response.status, answer, response.read()
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                if attempt or fresh:
                    raise RefusedError(
                        f"{method} {path}: expected an answer, found {error!r}"
                    ) from None
        raise AssertionError("unreachable")


def _checked(status: int, body: bytes) -> bytes:
    if status != 200:
        raise RefusedError(
            f"expected status 200, found {status}: {body[:200].decode(errors='replace')}"
        )
    return body


def _outputs(body: bytes, header_length: str | None) -> Arrays:
    length = int(header_length) if header_length else len(body)
    document = json.loads(body[:length])
    outputs: Arrays = {}
    position = length
    for output in document["outputs"]:
        dtype = np.dtype(_DTYPES[output["datatype"]])
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.asarray(output["data"], dtype)
        else:
            array = np.frombuffer(body, dtype, count=size // dtype.itemsize, offset=position)
            position += size
        outputs[output["name"]] = array.reshape(output["shape"])
    return outputs
