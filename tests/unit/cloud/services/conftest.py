"""A cloud for each test, copied keys, no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import clouds
from support.clouds import Cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = clouds.make(tmp_path / "data")
    yield made
    made.context.engine.dispose()
