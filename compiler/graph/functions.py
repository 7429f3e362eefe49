"""Functions of the model's own: each defined once, and never out of itself."""

from __future__ import annotations

from onnx import FunctionProto, ModelProto

from compiler.errors import ModelError
from compiler.graph import walk

Key = tuple[str, str]


def key_of(domain: str, name: str) -> Key:
    """What a function is called by; the default domain has two spellings."""
    return ("" if domain == "ai.onnx" else domain, name)


def check(where: str, model: ModelProto) -> None:
    """Check the functions among themselves.

    Raises:
        ModelError: one is defined twice, has no name, or calls itself, over others or not.
    """
    known: dict[Key, FunctionProto] = {}
    for function in model.functions:
        key = key_of(function.domain, function.name)
        if not function.name:
            raise ModelError(f"{where}: expected a name for each function, found one without")
        if key in known:
            raise ModelError(
                f"{where}: expected function {function.name!r} of domain {function.domain!r} once, "
                "found it twice"
            )
        known[key] = function
    calls = {key: _calls(function, known) for key, function in known.items()}
    done: set[Key] = set()
    for start in known:
        circle = _circle(start, calls, done)
        if circle:
            names = " -> ".join(repr(name) for _, name in circle)
            raise ModelError(
                f"{where}: expected functions that do not call themselves, found {names}; export it again"
            )


def _calls(function: FunctionProto, known: dict[Key, FunctionProto]) -> list[Key]:
    nodes = list(function.node)
    waiting = [graph for _, graph in walk.subgraphs(function.node)]
    while waiting:
        graph = waiting.pop()
        nodes += graph.node
        waiting += [inner for _, inner in walk.subgraphs(graph.node)]
    called = (key_of(node.domain, node.op_type) for node in nodes)
    return [key for key in dict.fromkeys(called) if key in known]


def _circle(start: Key, calls: dict[Key, list[Key]], done: set[Key]) -> list[Key]:
    """The calls from a function back to itself, found depth first; what holds is put into `done`."""
    way: list[tuple[Key, int]] = [(start, 0)] if start not in done else []
    on_way = {start}
    while way:
        key, at = way[-1]
        if at == len(calls[key]):
            way.pop()
            on_way.discard(key)
            done.add(key)
            continue
        way[-1] = (key, at + 1)
        called = calls[key][at]
        if called in on_way:
            names = [name for name, _ in way]
            return [*names[names.index(called) :], called]
        if called not in done:
            way.append((called, 0))
            on_way.add(called)
    return []
