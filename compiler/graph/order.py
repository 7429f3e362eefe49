"""The order of a graph: every value is made once, before it is used, and never out of itself.

Rules:
- A value may be used in the branches and loop bodies below the graph that makes it, not the other way.
- What is wrong is named: the value, who uses it, who makes it, and for a circle its nodes in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from onnx import GraphProto, ModelProto, NodeProto

from compiler.errors import ModelError
from compiler.graph import walk


class _Scope(NamedTuple):
    """One graph or function body, and what is known around it."""

    where: str
    nodes: list[NodeProto]
    given: list[str]
    wanted: list[str]
    around: frozenset[str]


def check(where: str, model: ModelProto) -> None:
    """Check the main graph, functions, and every graph below them.

    Raises:
        ModelError: a value that nobody makes, or two do, or that is used too early; a circle.
    """
    waiting = [_graph(where, model.graph, frozenset())]
    for function in model.functions:
        named = f"{where}: function {function.name!r}"
        waiting.append(
            _Scope(
                named,
                list(function.node),
                list(function.input),
                list(function.output),
                frozenset(),
            )
        )
    while waiting:
        waiting += _check(waiting.pop())


def _graph(where: str, graph: GraphProto, around: frozenset[str]) -> _Scope:
    given = _once(where, [value.name for value in graph.input], "inputs")
    constants = [tensor.name for tensor in graph.initializer]
    constants += [sparse.values.name for sparse in graph.sparse_initializer]
    given += [name for name in _once(where, constants, "initializers") if name not in set(given)]
    wanted = _once(where, [value.name for value in graph.output], "outputs")
    return _Scope(where, list(graph.node), given, wanted, around)


def _once(where: str, names: list[str], what: str) -> list[str]:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise ModelError(f"{where}: expected a name for each of its {what}, found one without")
        if name in seen:
            raise ModelError(
                f"{where}: expected different names for its {what}, found {name!r} twice"
            )
        seen.add(name)
    return list(names)


def _check(scope: _Scope) -> list[_Scope]:
    """Check one body; returns those below it."""
    makers = _makers(scope)
    known = set(scope.given)
    below: list[_Scope] = []
    for node in scope.nodes:
        for name in _used([node]):
            if name and name not in known and name not in scope.around:
                raise _early(scope, node, name, makers)
        for owner, graph in walk.subgraphs([node]):
            inner = f"{scope.where}: graph {graph.name!r} of {walk.label(owner)}"
            below.append(_graph(inner, graph, scope.around | known))
        known.update(filter(None, node.output))
    for name in scope.wanted:
        if name not in known and name not in scope.around:
            raise ModelError(
                f"{scope.where}: expected a node that makes the output {name!r}, found none; export it again"
            )
    return below


def _makers(scope: _Scope) -> dict[str, NodeProto]:
    makers: dict[str, NodeProto] = {}
    given = set(scope.given)
    for node in scope.nodes:
        for name in filter(None, node.output):
            if name in makers or name in given:
                other = walk.label(makers[name]) if name in makers else "an input or initializer"
                raise ModelError(
                    f"{scope.where}: expected {name!r} to be made once, found {walk.label(node)} and "
                    f"{other}; rename one"
                )
            makers[name] = node
    return makers


def _early(scope: _Scope, node: NodeProto, name: str, makers: dict[str, NodeProto]) -> ModelError:
    """What is wrong with the use of a value that is not there yet."""
    where, user = scope.where, walk.label(node)
    maker = makers.get(name)
    if maker is None:
        return ModelError(
            f"{where}: {user}: expected its input {name!r} to be an input, an initializer or made by a node, "
            "found none of that name; export the model again"
        )
    circle = _circle(node, makers)
    if circle:
        return ModelError(
            f"{where}: expected a graph without circles, found {' -> '.join(map(walk.label, circle))}; "
            "export the model again"
        )
    return ModelError(
        f"{where}: {user}: expected its input {name!r} to be made before it is used, found "
        f"{walk.label(maker)} behind it; sort the nodes"
    )


def _circle(start: NodeProto, makers: dict[str, NodeProto]) -> list[NodeProto]:
    """A way from `start` over who makes its inputs back to itself, in the order of the data."""
    came_from: dict[int, NodeProto] = {}
    waiting = [start]
    while waiting:
        node = waiting.pop()
        for maker in _before(node, makers):
            if maker is start:
                way = [start, node]
                while way[-1] is not start:
                    way.append(came_from[id(way[-1])])
                return way
            if id(maker) not in came_from:
                came_from[id(maker)] = node
                waiting.append(maker)
    return []


def _before(node: NodeProto, makers: dict[str, NodeProto]) -> list[NodeProto]:
    found = {id(makers[name]): makers[name] for name in _used([node]) if name in makers}
    return list(found.values())


def _used(nodes: Iterable[NodeProto]) -> list[str]:
    return [name for node in nodes for name in node.input]
