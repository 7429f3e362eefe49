"""A user's own targets, recipes, operator sets and toolchains, and what is said of mistakes in them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import tomllib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import plug_in

from compiler import profiles
from compiler.errors import CatalogError
from compiler.recipes import catalog as recipes
from compiler.targets import catalog as targets
from compiler.toolchains import catalog as toolchains


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTRIDER_PROFILES", str(plug_in.write(tmp_path / "mine")))
    return tmp_path / "mine"


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_users_own_are_found_beside_the_shipped(folder: Path) -> None:
    assert {"acme-npu", "jetson-thor"} <= set(targets.names())
    target = targets.get("acme-npu")
    assert [recipe.name for recipe in target.candidates] == ["acme_litert_dynamic_wi8"]
    assert target.operators["acme"] == {"acme-npu"}
    assert target.engine.settings == {"cores": 2}
    toolchain = toolchains.get("acme")
    assert toolchain.driver == (folder / "toolchains/acme_driver.py").resolve()
    assert [path.name for path in toolchain.modules] == ["acme_format.py"]


def test_several_folders_are_a_path_list(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    (other / "targets").mkdir(parents=True)
    text = (folder / "targets/acme-npu.toml").read_text()
    (other / "targets/acme-two.toml").write_text(text)
    monkeypatch.setenv("OUTRIDER_PROFILES", os.pathsep.join([str(folder), str(other)]))
    assert {"acme-npu", "acme-two"} <= set(targets.names())
    (other / "targets/acme-npu.toml").write_text(text)
    with pytest.raises(
        CatalogError, match=r"found 'acme-npu', which is in .*mine.*; rename the file"
    ):
        targets.names()


def test_the_users_configuration_folder_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUTRIDER_PROFILES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert "acme-npu" not in targets.names()
    plug_in.write(tmp_path / "outrider")
    assert "acme-npu" in targets.names()
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert profiles.folders() == [tmp_path / ".config" / "outrider"]


@pytest.mark.parametrize("kind", ["targets", "toolchains", "operators"])
def test_a_shipped_name_is_not_replaced(folder: Path, kind: str) -> None:
    taken = {"targets": "rtx-ada", "toolchains": "vela", "operators": "litert"}[kind]
    (folder / kind / f"{taken}.toml").write_text("")
    with pytest.raises(CatalogError, match=f"found '{taken}', which ships with this version"):
        targets.get("acme-npu") if kind != "toolchains" else toolchains.names()


def test_a_shipped_recipe_is_not_replaced(folder: Path) -> None:
    (folder / "recipes/more.toml").write_text(
        '[litert_fp32]\ntitle = "mine"\nbackend = "litert"\nprecision = "fp32"\nmode = "fp32"\n'
    )
    with pytest.raises(CatalogError, match=r"more.toml: litert_fp32: expected a name of its own"):
        recipes.load()


MISTAKES = [
    ("targets/acme-npu.toml", "memory_mib = 256", "memory = 256", "memory_mib: expected"),
    ("targets/acme-npu.toml", "memory_mib = 256", "memory_mib = 0", "memory_mib: expected a whole"),
    ("targets/acme-npu.toml", "memory_mib = 256", "memory_mib = 256\nmemry = 1", "memry: expected one of"),
    ("targets/acme-npu.toml", '"acme-board"', '"Acme Board"', "hardware_classes: expected"),
    ("targets/acme-npu.toml", '["acme-board"]', "[]", "hardware_classes: expected one or more"),
    ("targets/acme-npu.toml", '[["litert_fp32"]]', '["litert_fp32"]', "fallback: expected a list of lists"),
    ("targets/acme-npu.toml", '"litert_fp32"', '"litert_fp23"', "fallback: expected recipes of"),
    ("targets/acme-npu.toml", '[["acme_litert_dynamic_wi8"]]', "[]", "ladder: expected one or more tiers"),
    ("targets/acme-npu.toml", '[["litert_fp32"]]', '[["litert_fp32"], ["litert_fp32"]]', "each recipe once"),
    ("targets/acme-npu.toml", 'acme = ">=1.0,<2"', 'acme = "1.0 or so"', "runtime_versions.acme: expected"),
    ("targets/acme-npu.toml", 'acme = ">=1.0,<2"\n', "", "runtime_versions.acme: expected the versions"),
    ("targets/acme-npu.toml", 'acme = ["acme"]', 'acme = ["acne"]', "operators.acme: expected operator sets"),
    ("recipes/acme.toml", '"litert_dynamic_wi8"', '"litert_wi8"', "base: expected one of"),
    ("recipes/acme.toml", 'member = "model.acme"\n', "", "acme_litert_dynamic_wi8.member: expected"),
    ("recipes/acme.toml", '"finish"', '"finnish"', "backend: expected one of"),
    ("recipes/acme.toml", "[acme_litert_dynamic_wi8]", '["Acme 8"]', "expected a name of small letters"),
    ("operators/acme.toml", 'source = "its compiler"\n', "", "source: expected a text"),
    ("targets/acme-npu.toml", 'title = "', 'title = = "', "expected TOML, found"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_file_and_key(
    folder: Path, file: str, old: str, new: str, message: str
) -> None:
    change(folder / file, old, new)
    with pytest.raises(CatalogError) as caught:
        targets.get("acme-npu")
    assert str(caught.value).startswith(str(folder / file))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"acme_driver.py"', '"driver.py"', "driver: expected a file, relative to"),
        ('["acme_format.py"]', '["format.py"]', "modules: expected a file"),
        ("wall_s = 60", "wall_s = 0", "limits.wall_s: expected a number of at least 1"),
        ("memory_mib = 512", "", "limits.memory_mib: expected"),
        ("[limits]", '[supplied]\npython = ["x"]\n\n[limits]', "supplied.hint: expected"),
    ],
)
def test_a_mistake_in_a_toolchain_is_named(folder: Path, old: str, new: str, message: str) -> None:
    change(folder / "toolchains/acme.toml", old, new)
    with pytest.raises(CatalogError) as caught:
        toolchains.get("acme")
    assert str(folder / "toolchains/acme.toml") in str(caught.value)
    assert message in str(caught.value)


def test_a_file_named_oddly_and_a_folder_that_is_none_are_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "targets/My Board.toml").write_text("")
    with pytest.raises(CatalogError, match="expected a file name of small letters"):
        targets.names()
    monkeypatch.setenv("OUTRIDER_PROFILES", str(folder / "nowhere"))
    with pytest.raises(
        CatalogError, match=r"OUTRIDER_PROFILES: expected folders, found '.*nowhere'"
    ):
        targets.names()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=4),
    st.lists(st.text(max_size=4), max_size=2), st.just([[]]), st.just([["", "x"]]), st.just({"a": 1}),
)  # fmt: skip


def written(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08x}" for char in value) + '"'
    return repr(value)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=st.sampled_from(sorted(tomllib.loads(plug_in.TARGET))), value=VALUES)
def test_whatever_stands_under_a_key_is_taken_or_refused_by_name(
    folder: Path, key: str, value: object
) -> None:
    table = tomllib.loads(plug_in.TARGET)
    if value is None:
        del table[key]
    else:
        table[key] = value
    file = folder / "targets" / "changed.toml"
    try:
        file.write_text("".join(f"{name} = {written(given)}\n" for name, given in table.items()))
        tomllib.loads(file.read_text())
        try:
            target = targets.read(file)
        except CatalogError as error:
            assert str(error).startswith(f"{file}: {key}")  # noqa: PT017 - either outcome is right
        else:
            assert target.ladder
            assert target.memory_mib > 0
    finally:
        file.unlink(missing_ok=True)


def keys(path: Path) -> set[str]:
    """The keys of a target's or a toolchain's file, those of free tables left out."""
    found = set()
    for name, value in tomllib.loads(path.read_text()).items():
        found.add(name)
        if name in {"engine", "limits", "supplied"}:
            found |= {f"{name}.{key}" for key in value}
    return found


def test_every_key_is_in_the_reference() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/targets.md").read_text()
    described = set(re.findall(r"`\[?([a-z_.]+)\]?`", page))
    used = {key for path in targets.HERE.glob("*.toml") for key in keys(path)}
    used |= {key for path in toolchains.HERE.glob("*.toml") for key in keys(path)}
    used |= {
        key
        for path in recipes.HERE.glob("*.toml")
        for recipe in tomllib.loads(path.read_text()).values()
        for key in recipe
    }
    assert used - {"engine", "limits", "supplied"} <= described
