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
BROADCAST_BLOCKS = Counter(
    "outrider_gateway_broadcast_blocks_total", "Blocks sent to everybody who listens."
)
BROADCAST_BYTES = Counter(
    "outrider_gateway_broadcast_bytes_total", "Bytes of blocks sent to everybody who listens."
)
HTTPS_REQUESTS = Counter(
    "outrider_gateway_https_requests_total",
    "Requests for ranges of blobs that were served over HTTPS.",
)
DESIRED = Counter("outrider_gateway_desired_total", "Desired states sent to devices.")
CONNECTED = Gauge(
    "outrider_gateway_connected", "1 while the gateway is connected to the broker, else 0."
)
WAITING = Gauge("outrider_gateway_inbox_messages", "Messages that wait to be handled.")
