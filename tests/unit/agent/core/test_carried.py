"""Rows that lie on a medium make room for the next ones, and stay until they are acknowledged."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.core.commands import Forget, LoadRows, Publish
from agent.core.context import Context, Settings
from agent.core.events import Row, RowsLoaded
from agent.core.uplink import IN_FLIGHT, Uplink
from fleet.wire import envelope

pytestmark = pytest.mark.agent
SETTINGS = Settings(tenant="t", device="d", hardware_class="cpu", agent_version="1")
ROWS = [
    Row(position=n, boot_epoch="e", seq=n, kind="event", payload=b"%d" % n) for n in range(1, 201)
]


def said(ctx: Context, uplink: Uplink) -> list[int]:
    """Let the buffer answer until nothing more is asked of it; the numbers of the rows that went out."""
    numbers = []
    while ctx.out:
        command = ctx.out.pop(0)
        if isinstance(command, Publish):
            numbers.append(envelope.from_bytes(command.payload).counter)
        elif isinstance(command, LoadRows):
            rows = [row for row in ROWS if row.position > command.after][: command.limit]
            uplink.loaded(RowsLoaded(after=command.after, rows=rows, waiting=len(ROWS)))
    return numbers


def test_the_whole_buffer_goes_to_a_medium_and_again_to_the_next():
    signer = envelope.signer(ec.generate_private_key(ec.SECP256R1()))
    ctx = Context(SETTINGS, signer, boot_epoch="e", ids=lambda: "id", utc_offset_s=lambda _: 0.0)
    uplink = Uplink(ctx)
    for _ in range(2):
        ctx.connected, ctx.now = True, ctx.now + 1
        uplink.connected()
        went = said(ctx, uplink)
        assert went == list(range(1, IN_FLIGHT + 1)), "no more than may wait go at once"
        while True:
            uplink.carried([("e", number) for number in went])
            more = said(ctx, uplink)
            if not more:
                break
            assert not set(more) & set(went), "what lies there is not said again"
            went += more
        assert went == list(range(1, 201))
        assert uplink.waiting == 200, "nothing is let go before it is acknowledged"
    uplink.acked([("e", 1)])
    assert any(isinstance(command, Forget) for command in ctx.out)
