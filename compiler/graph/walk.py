"""Every part of a model, wherever it hides: in branches, loops, functions, attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto


def subgraphs(nodes: Iterable[NodeProto]) -> Iterator[tuple[NodeProto, GraphProto]]:
    """The graphs in the attributes of nodes, each with its node; not those within them."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
                yield node, attribute.g
            for inner in attribute.graphs:
                yield node, inner


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph, and every graph below it and below functions."""
    waiting = [model.graph]
    waiting += [graph for function in model.functions for _, graph in subgraphs(function.node)]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [inner for _, inner in subgraphs(graph.node)]


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node."""
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that the file holds."""
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield attribute.sparse_tensor.values
                yield attribute.sparse_tensor.indices
            for sparse in attribute.sparse_tensors:
                yield sparse.values
                yield sparse.indices


def texts(model: ModelProto) -> Iterator[object]:
    """Every name; one that is not UTF-8 comes as bytes."""
    for node in nodes(model):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for graph in graphs(model):
        yield graph.name
        yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    for tensor in tensors(model):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
    yield from (imported.domain for imported in model.opset_import)


def label(node: NodeProto) -> str:
    """How messages name a node: by its name, or by what it makes."""
    if node.name:
        return f"node {node.name!r} ({node.op_type})"
    return f"node {node.op_type} that makes {next(iter(node.output), '')!r}"
