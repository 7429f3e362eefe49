"""What the gateway counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

MESSAGES = Counter(
    "outrider_gateway_messages_total",
    "Messages from devices, by kind and by what became of them: handled, dropped, malformed, forged, refused, failed.",
    ["kind", "outcome"],
)
BLOCKS = Counter("outrider_gateway_blocks_total", "Blocks sent to devices.")
BLOCK_BYTES = Counter("outrider_gateway_block_bytes_total", "Bytes of blocks sent to devices.")
DESIRED = Counter("outrider_gateway_desired_total", "Desired states sent to devices.")
CONNECTED = Gauge(
    "outrider_gateway_connected", "1 while the gateway is connected to the broker, else 0."
)
WAITING = Gauge("outrider_gateway_inbox_messages", "Messages that wait to be handled.")
