"""What the cloud offers: its REST API and its metrics."""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown import sources, table


def api() -> str:
    """Every endpoint with the least role that it needs."""
    document, roles = _application()
    rows = [
        [f"`{verb.upper()}`", f"`{path}`", roles.get((verb, path), "anybody"), _told(operation)]
        for path, operations in document["paths"].items()
        for verb, operation in operations.items()
    ]
    return table(["method", "path", "role", "what it does"], rows)


def openapi() -> str:
    """The API as an OpenAPI document."""
    return json.dumps(_application()[0], indent=1) + "\n"


def metrics() -> str:
    """Every metric of every process, found where it is declared."""
    rows = sorted({tuple(row) for path in sources() for row in _declared(path)})
    return table(["metric", "kind", "labels", "meaning"], [list(row) for row in rows])


def _application() -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
    """The OpenAPI document, and the role by method and path."""
    from cloud import context, settings
    from cloud.api.app import create

    with tempfile.TemporaryDirectory() as folder:
        made = context.build(settings.load(Path(folder)))
        app = create(made)
        document: dict[str, Any] = app.openapi()
        made.engine.dispose()
    return document, _roles()


ROLES = ("Worker", "Viewer", "Operator", "Engineer", "Admin")


def _roles() -> dict[tuple[str, str], str]:
    """The role that each endpoint's signature names, read from the source."""
    found = {}
    for path in sources():
        if "routes" not in path.parts or "api" not in path.parts:
            continue
        tree = ast.parse(path.read_text())
        prefix = _prefix(tree)
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            named = [a.annotation.id for a in node.args.args if isinstance(a.annotation, ast.Name)]
            role = next((n for n in named if n in ROLES), "")
            for verb, route in _routes(node):
                if role:
                    found[verb, f"/api/v1{prefix}{route}"] = role.lower()
    return found


def _prefix(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "APIRouter":
            for keyword in node.keywords:
                if keyword.arg == "prefix" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return ""


def _routes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute):
            path = decorator.args[0]
            if isinstance(path, ast.Constant):
                yield decorator.func.attr, str(path.value)


def _told(operation: dict[str, Any]) -> str:
    return str(operation.get("description", operation.get("summary", ""))).split("\n\n")[0]


def _declared(path: Path) -> Iterator[list[str]]:
    text = path.read_text()
    if "prometheus_client" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        kind = getattr(node.func, "id", "")
        if kind in ("Gauge", "Counter", "Histogram", "Summary") and len(node.args) >= 2:
            name, told, *rest = [ast.literal_eval(arg) for arg in node.args]
            labels = ", ".join(f"`{label}`" for label in (rest[0] if rest else []))
            shown = f"{name.removesuffix('_total')}_total" if kind == "Counter" else str(name)
            yield [f"`{shown}`", kind.lower(), labels, str(told)]
