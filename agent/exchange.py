"""``outrider-agent exchange``: have the running daemon exchange with a medium, and say how it went."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec

from agent.adapters import control
from agent.adapters.medium import Exchanged
from agent.config import Config
from agent.core.status import AgentStatus

_LOOK_S: Final = 0.25


def run(config: Config, folder: Path, *, as_json: bool) -> int:
    """Exchange; the exit code is 0 when all that was wanted was there and nothing failed.

    Raises:
        LinkError: no daemon runs on this device.
    """
    found = control.ask_exchange(config.state_path, folder)
    while found.running:
        time.sleep(_LOOK_S)
        found = control.ask_exchange(config.state_path, None)
    status = control.ask_status(config.state_path)
    if as_json:
        answer = {"exchange": msgspec.to_builtins(found), "status": msgspec.to_builtins(status)}
        print(msgspec.json.format(msgspec.json.encode(answer)).decode())
    else:
        print(_text(found, status))
    return 1 if found.error or found.missing else 0


def _text(found: Exchanged, status: AgentStatus) -> str:
    lines = [f"written to the medium: {found.collected} messages"]
    if not found.desired and not found.error:
        lines.append(f"the medium holds nothing for {status.device}")
    if found.missing:
        lines.append(f"missing on the medium: {', '.join(sha256[:16] for sha256 in found.missing)}")
    if found.error:
        lines.append(f"ended early: {found.error}")
    for model in status.models:
        release = f"{model.model} {model.release or 'none'}"
        problem = f" ({model.error_code}: {model.detail})" if model.error_code else ""
        lines.append(f"{release}: {model.state}, assigned {model.assigned or 'none'}{problem}")
    return "\n".join(lines)
