"""HTTP out of bytes: whatever arrives, and however it is cut, requests or one refusal come out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving.oip.errors import HttpError
from agent.serving.oip.http import Budget, Limits, Request, RequestReader, Response, response_head

pytestmark = pytest.mark.agent

LIMITS = Limits(target_bytes=64, header_bytes=512, body_bytes=256, buffered_bytes=1024)


def read(*pieces: bytes, limits: Limits = LIMITS) -> tuple[list[Request], HttpError | None]:
    """What comes out, and the refusal at the end, if any; the budget must be whole afterwards."""
    budget = Budget(limits.buffered_bytes)
    reader = RequestReader(limits, budget)
    requests: list[Request] = []
    refusal = None
    for piece in pieces:
        for item in reader.feed(piece):
            assert refusal is None
            if isinstance(item, HttpError):
                refusal = item
            else:
                requests.append(item)
        if refusal:
            break
    reader.abandon()
    for request in requests:
        budget.give(request.held_bytes)
    budget.take(limits.buffered_bytes)
    return requests, refusal


POST = b"POST /a HTTP/1.1\r\ncontent-length: 3\r\nX-Y: z\r\n\r\nabc"
CHUNKED = b"POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
GET = b"GET /c?d HTTP/1.1\r\n\r\n"


def test_pipelined_requests_come_out_in_order() -> None:
    requests, refusal = read(POST + CHUNKED + GET)
    assert refusal is None
    assert [(r.method, r.target, bytes(r.body)) for r in requests] == [
        ("POST", b"/a", b"abc"),
        ("POST", b"/b", b"abc"),
        ("GET", b"/c?d", b""),
    ]
    assert requests[0].headers[b"x-y"] == b"z"
    assert all(r.keep_alive for r in requests)


@given(st.lists(st.integers(0, len(POST + CHUNKED + GET)), max_size=12))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    stream = POST + CHUNKED + GET
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert read(*pieces) == read(stream)


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_junk_is_answered_or_waited_for(pieces: list[bytes]) -> None:
    _, refusal = read(*pieces)
    assert refusal is None or 400 <= refusal.status < 600


TOKENS = [
    b"GET ", b"POST ", b"CONNECT ", b"PRI * ", b"/", b"/v2/models/m/infer", b" HTTP/1.1", b" HTTP/2.0",
    b"\r\n", b"\n", b"\r", b"\x00", b": ", b"content-length", b"transfer-encoding", b"chunked",
    b"expect: 100-continue\r\n", b"expect: 200\r\n", b"upgrade: h2c\r\nconnection: upgrade\r\n",
    b"connection: close\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"18446744073709551616", b"-1", b"3",
    b"a" * 300, b" ", b"\xff", b"{}",
]  # fmt: skip


@given(st.lists(st.sampled_from(TOKENS), max_size=40), st.integers(1, 64))
def test_near_http_is_answered_or_waited_for(tokens: list[bytes], size: int) -> None:
    stream = b"".join(tokens)
    _, refusal = read(*(stream[i : i + size] for i in range(0, len(stream), size)))
    assert refusal is None or 400 <= refusal.status < 600


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /" + b"a" * 64 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 600, 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\ncontent-length: 257\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n101\r\n" + b"a" * 257, 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nexpect: a miracle\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n" + GET, 400),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_is_refused(stream: bytes, status: int, size: int) -> None:
    _, refusal = read(*(stream[i : i + size] for i in range(0, len(stream), size)))
    assert refusal is not None
    assert refusal.status == status
    assert refusal.close


def test_requests_before_junk_still_come_out() -> None:
    requests, refusal = read(GET + b"junk junk\r\n\r\n")
    assert [r.target for r in requests] == [b"/c?d"]
    assert refusal is not None


def test_bodies_of_all_connections_share_one_budget() -> None:
    budget = Budget(300)
    first, second = RequestReader(LIMITS, budget), RequestReader(LIMITS, budget)
    head = b"POST / HTTP/1.1\r\ncontent-length: 200\r\n\r\n"
    (request,) = first.feed(head + b"a" * 200)
    (refusal,) = second.feed(head + b"a" * 101)
    assert isinstance(refusal, HttpError)
    assert refusal.status == 503
    second.abandon()
    assert isinstance(request, Request)
    budget.give(request.held_bytes)
    third = RequestReader(LIMITS, budget)
    assert isinstance(third.feed(head + b"a" * 200)[0], Request)


def test_another_protocol_is_declined_by_answering_in_this_one() -> None:
    upgrade = b"GET /c HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
    requests, refusal = read(upgrade + b"\x00\x01")
    assert refusal is None
    assert not requests[0].keep_alive


def test_a_waiting_client_is_seen_to_wait() -> None:
    reader = RequestReader(LIMITS, Budget(1000))
    assert not reader.feed(b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert reader.expects_continue
    (request,) = reader.feed(b"ab")
    assert isinstance(request, Request)
    assert not reader.expects_continue


def test_head_of_an_answer() -> None:
    response = Response(503, [b"abc", memoryview(b"de")], headers=(b"retry-after: 1",))
    assert response_head(response, keep_alive=False) == (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        b"content-length: 5\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    )
