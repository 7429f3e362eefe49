"""Inputs that were changed somewhere: by a leaf, a key, a byte, a cut, a repetition."""

from __future__ import annotations

import json
import random

LEAVES = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**70, 1.5, float("nan"), float("inf"), -0.0, "", "x",
    "é\x00", "\ud800", "a" * 2_000, "*" * 200, "[" * 50, "../x", [], {}, [[]], {"a": 1}, 10**400,
    "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2026-13-01T00:00:00Z", "00" * 32,
)  # fmt: skip


def leaf(value: object, rng: random.Random) -> object:
    """The JSON value with one leaf or key of it replaced, lost, doubled, moved or grown."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        return _dict(value, rng)
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        action = rng.random()
        if action < 0.1:
            return value[:at] + value[at + 1 :]
        if action < 0.2:
            return [*value, *[value[at]] * rng.choice((1, 2, 500))]
        return [*value[:at], leaf(value[at], rng), *value[at + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.3:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice("0aZ/*?[.\\\n\x00é") + value[at + rng.randrange(2) :]
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 2**53, -(2**64)))
    return rng.choice(LEAVES)


def _dict(value: dict, rng: random.Random) -> dict:
    key = rng.choice(sorted(value))
    action = rng.random()
    if action < 0.08:
        return {k: v for k, v in value.items() if k != key}
    if action < 0.13:
        return {**value, key + "x": value[key]}
    if action < 0.18:
        return {**value, rng.choice(sorted(value)): value[key]}
    if action < 0.2:
        return {**value, **{f"{key}{i}": value[key] for i in range(rng.choice((3, 500)))}}
    return {**value, key: leaf(value[key], rng)}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to eight changes that know nothing of their meaning."""
    for _ in range(rng.randint(1, 8)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        action = rng.randrange(6)
        if action == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif action == 1:
            data = data[:at]
        elif action == 2:
            data = data[:at] + data[end:]
        elif action == 3:
            data = data[:end] + data[at:end] * rng.choice((1, 2, 20)) + data[end:]
        elif action == 4:
            data = data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]
        else:
            data = data[:at] + b"[" * rng.choice((1, 900, 20_000)) + data[at:]
        data = data[:200_000]
    return data


def document(data: bytes, rng: random.Random) -> bytes:
    """A JSON document that was changed: mostly within its structure, so that it is still read."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = leaf(value, rng)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
