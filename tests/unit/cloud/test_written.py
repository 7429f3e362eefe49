"""How commands read rates."""

from __future__ import annotations

import click
import pytest

from cloud.cli.written import rate


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("0", 0),
        ("500000", 500_000),
        ("256kbit", 32_000),
        ("10Mbit/s", 1_250_000),
        ("2MiB", 2 << 20),
    ],
)
def test_a_rate_is_bytes_per_second(text: str, bytes_s: int):
    assert rate(text) == bytes_s


@pytest.mark.parametrize("text", ["fast", "-1", "10 Mb", "5kbps"])
def test_what_is_no_rate_is_told(text: str):
    with pytest.raises(click.BadParameter, match="256kbit"):
        rate(text)
