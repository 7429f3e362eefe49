"""The HTTP client of every command that talks to a cloud; standard library only, so that it starts fast.

Rules:
- Where the cloud is: ``--server`` and ``--token``, else ``OUTRIDER_URL`` and ``OUTRIDER_TOKEN``, else
  ``endpoints.json`` and ``admin.token`` in the data directory (``OUTRIDER_DATA``, else
  ``~/.local/share/outrider``).
- The data directory's admin token goes to the cloud of that directory only.
- Loopback addresses are never reached through a proxy.
- Every failure is an error of ours; the cloud's own errors keep their code.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import click

from fleet.cli.errors import NoServerError, UnreachableError, remote_error

TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 600.0
STREAM_TIMEOUT_S = 60.0
PREFIX = "/api/v1"
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}

F = TypeVar("F", bound=Callable[..., Any])


class ServerEvent(NamedTuple):
    """One server-sent event."""

    topic: str
    data: dict[str, Any]


class Remote:
    """The REST API of one cloud.

    Args:
        url: scheme, host and port, for instance ``http://127.0.0.1:8080``.
        token: bearer token; empty sends none.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        loopback = urllib.parse.urlsplit(self.url).hostname in _LOOPBACK
        self._opener = urllib.request.build_opener(
            *([urllib.request.ProxyHandler({})] if loopback else [])
        )

    @classmethod
    def find(cls, server: str = "", token: str = "") -> Remote:
        """The cloud that the user means.

        Raises:
            NoServerError: nothing says where it is.
        """
        data = Path(os.environ.get("OUTRIDER_DATA") or Path.home() / ".local/share/outrider")
        local = _endpoint(data)
        url = server or os.environ.get("OUTRIDER_URL", "") or local
        token = token or os.environ.get("OUTRIDER_TOKEN", "")
        if not token and url.rstrip("/") == local.rstrip("/"):
            token = _admin_token(data)
        if not url:
            raise NoServerError(
                f"no cloud is named and none runs from {data}; start one with `outrider up`, or give --server URL "
                f"--token TOKEN (or OUTRIDER_URL and OUTRIDER_TOKEN)"
            )
        if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
            raise NoServerError(
                f"expected a server address like http://127.0.0.1:8080, found {url!r}"
            )
        return cls(url, token)

    def get(self, path: str, **query: Any) -> Any:
        """GET ``/api/v1`` + `path`; query values that are None are left out."""
        return self._json(self._request("GET", path, query=query))

    def post(self, path: str, body: Any = None) -> Any:
        """POST a JSON document."""
        data = json.dumps({} if body is None else body).encode()
        return self._json(self._request("POST", path, data=data, kind="application/json"))

    def upload(
        self,
        path: str,
        file: Path,
        *,
        kind: str,
        sent: Callable[[int], None] | None = None,
        **query: Any,
    ) -> Any:
        """POST a file's bytes; `sent` hears how many went out at a time."""
        with file.open("rb") as source:
            body = _Counted(source, sent or (lambda _: None))
            request = self._request("POST", path, query=query, data=body, kind=kind)
            request.add_header("Content-Length", str(file.stat().st_size))
            return self._json(request, timeout_s=UPLOAD_TIMEOUT_S)

    def download(self, path: str, into: Path) -> None:
        """GET a file's bytes into the file `into`; it is there whole, or not at all."""
        partial = into.with_name(f"{into.name}.part")
        with self._open(self._request("GET", path), timeout_s=UPLOAD_TIMEOUT_S) as response:
            try:
                with partial.open("wb") as file:
                    shutil.copyfileobj(response, file, 1 << 20)
            except HTTPException as error:
                raise UnreachableError(f"{self.url}: the download broke off ({error})") from None
        expected = response.headers.get("Content-Length")
        if expected is not None and partial.stat().st_size != int(expected):
            raise UnreachableError(f"{self.url}: the download broke off before its end")
        partial.replace(into)

    def delete(self, path: str) -> Any:
        """DELETE ``/api/v1`` + `path`."""
        return self._json(self._request("DELETE", path))

    def stream(self, path: str = "/events", **query: Any) -> Iterator[ServerEvent]:
        """Server-sent events until the server ends; comment lines keep it alive."""
        request = self._request("GET", path, query=query)
        request.add_header("Accept", "text/event-stream")
        with self._open(request, timeout_s=STREAM_TIMEOUT_S) as response:
            topic, lines = "message", list[str]()
            for raw in _lines(response, self.url):
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if line.startswith("event:"):
                    topic = line[6:].strip()
                elif line.startswith("data:"):
                    lines.append(line[5:].strip())
                elif not line and lines:
                    yield ServerEvent(topic, json.loads("\n".join(lines)))
                    topic, lines = "message", []

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        data: Any = None,
        kind: str = "",
    ) -> urllib.request.Request:
        given = {k: v for k, v in (query or {}).items() if v is not None}
        suffix = f"?{urllib.parse.urlencode(given, doseq=True)}" if given else ""
        address = f"{self.url}{PREFIX}{urllib.parse.quote(path, safe='/@')}{suffix}"
        request = urllib.request.Request(address, method=method, data=data)  # noqa: S310 - http(s) only, see `find`
        if kind:
            request.add_header("Content-Type", kind)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        return request

    def _json(self, request: urllib.request.Request, *, timeout_s: float = TIMEOUT_S) -> Any:
        with self._open(request, timeout_s=timeout_s) as response:
            body = response.read()
        try:
            return json.loads(body) if body else None
        except ValueError:
            raise UnreachableError(
                f"{self.url} answered something that is not JSON; is it an Outrider cloud?"
            ) from None

    def _open(self, request: urllib.request.Request, *, timeout_s: float) -> Any:
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                raise _from_answer(error.code, error.read()) from None
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(
                f"the cloud at {self.url} does not answer ({reason}); is `outrider up` running?"
            ) from None


class _Counted:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, sent: Callable[[int], None]) -> None:
        self._file = file
        self._sent = sent

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self._sent(len(data))
        return data


def remote_options(command: F) -> F:
    """Add ``--server`` and ``--token``; the command takes ``server`` and ``token``."""
    command = click.option(
        "--token", default="", metavar="TOKEN", help="API token [env: OUTRIDER_TOKEN]."
    )(command)
    return click.option(
        "--server", default="", metavar="URL", help="Address of the cloud [env: OUTRIDER_URL]."
    )(command)


def _endpoint(data: Path) -> str:
    try:
        return str(json.loads((data / "endpoints.json").read_bytes())["api"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _admin_token(data: Path) -> str:
    try:
        return (data / "admin.token").read_text().strip()
    except OSError:
        return ""


def _from_answer(status: int, body: bytes) -> Exception:
    try:
        error = json.loads(body)["error"]
        return remote_error(
            str(error["code"]), str(error["message"]), retryable=bool(error.get("retryable"))
        )
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode("utf-8", "replace")
        return remote_error(
            f"http.{status}",
            f"the cloud answered with status {status}: {text}",
            retryable=status >= 500,
        )


def _lines(response: Any, url: str) -> Iterator[bytes]:
    try:
        yield from response
    except (OSError, HTTPException) as error:
        raise UnreachableError(f"the event stream of {url} broke off ({error})") from None
