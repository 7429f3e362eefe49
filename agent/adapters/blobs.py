"""Blobs over HTTPS: ranges of them, shown the device's certificate, block by block.

Rules:
- One connection is kept for the next request; a request that fails closes it.
- Blocks are handed over as they arrive, and are proved by whoever takes them: nothing here is trusted.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from urllib.parse import urlsplit

from agent.errors import EnrolmentError, LinkError
from fleet.wire.messages import Block, BlocksWanted
from ota.transfer.bitmap import unpack

TIMEOUT_S = 20.0


class Blobs:
    """The cloud's blobs.

    Args:
        url: ``https://HOST:PORT`` of the cloud's HTTPS server.
        tls: makes the context of the next connection; raises EnrolmentError.
    """

    def __init__(self, url: str, tls: Callable[[], ssl.SSLContext]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._tls = tls
        self._connection: http.client.HTTPSConnection | None = None
        self._lock = threading.Lock()

    def get(self, wanted: BlocksWanted, take: Callable[[Block], None]) -> None:
        """Fetch the blocks that a request asks for, at most its limit of them.

        Args:
            wanted: the request, as it would be made over MQTT.
            take: called with each block.

        Raises:
            LinkError: the server cannot be reached, refuses, or does not give what was asked for.
        """
        with self._lock:
            indices = list(unpack(wanted.first, wanted.bitmap))[: wanted.limit]
            try:
                for first, count in _runs(indices):
                    self._get_run(wanted, first, count, take)
            except (OSError, http.client.HTTPException, LinkError, EnrolmentError) as error:
                self._close()
                raise LinkError(
                    f"https://{self._host}:{self._port}/blobs/{wanted.digest[:12]}: {error}"
                ) from None

    def close(self) -> None:
        """Let the connection go."""
        with self._lock:
            self._close()

    def _get_run(
        self, wanted: BlocksWanted, first: int, count: int, take: Callable[[Block], None]
    ) -> None:
        unit = wanted.block_size_bytes
        response = self._request(wanted.digest, first * unit, (first + count) * unit - 1)
        rest = int(response.headers.get("Content-Length") or 0)
        for index in range(first, first + count):
            data = response.read(min(unit, rest))
            rest -= len(data)
            if not data:
                raise LinkError(f"expected block {index}, the answer ended")
            take(Block(digest=wanted.digest, index=index, data=data, unit=unit))
        response.read()

    def _request(self, digest: str, start: int, end: int) -> http.client.HTTPResponse:
        fresh = self._connection is None
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=TIMEOUT_S, context=self._tls()
            )
        try:
            self._connection.request(
                "GET", f"/blobs/{digest}", headers={"Range": f"bytes={start}-{end}"}
            )
            response = self._connection.getresponse()
        except (OSError, http.client.HTTPException):
            self._close()
            if fresh:
                raise
            return self._request(digest, start, end)  # the server had closed what was kept
        if response.status != http.client.PARTIAL_CONTENT:
            text = response.read(500).decode(errors="replace")
            raise LinkError(f"expected status 206, found {response.status}: {text}")
        return response

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _runs(indices: list[int]) -> Iterator[tuple[int, int]]:
    """First index and length of each run of neighbours."""
    for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        members = [index for _, index in run]
        yield members[0], len(members)
