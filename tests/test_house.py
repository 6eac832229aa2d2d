"""The house rules that can be read off the source: one-way imports, no unpickling, a docstring for every room."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "curvekit").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Who may build on whom: what stands left never imports, directly or by others, what stands right of it.
ARROWS = (
    "softemax > attention > modeling",
    "curves > modeling",
    "encoders > modeling",
    "corpora > packing > training",
    "tokenization > packing",
    "modeling > experiments",
    "training > experiments",
    "metrics > experiments",
    "experiments > figures",
    "experiments > reports",
    "figures > reports > cli",
    "shading > figures > widgets",
    "generation > panels > widgets",
    "errors > files > corpora",
)
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, lazily or not, as dotted names."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "curvekit" if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def neighbours(module: str) -> frozenset[str]:
    """The rooms of the library that a room imports."""
    rooms = {path.stem for path in LIBRARY}
    names = (name.split(".") for name in imported(ROOT / "curvekit" / f"{module}.py"))
    return frozenset(name[1] for name in names if name[0] == "curvekit" and name[1:] and name[1] in rooms)


def reachable(module: str) -> set[str]:
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = neighbours(waiting.pop()) - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("module", [path.stem for path in LIBRARY])
def test_no_module_reaches_itself(module):
    assert module not in reachable(module)


@pytest.mark.parametrize("arrow", ARROWS)
def test_arrows_point_one_way(arrow):
    rooms = [room for room in arrow.split(" > ") if (ROOT / "curvekit" / f"{room}.py").exists()]
    for place, room in enumerate(rooms):
        assert not reachable(room) & set(rooms[place + 1 :]), f"{room} builds on a room above it"


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_imports_no_notebook_no_test_and_only_widgets_import_widgets(path):
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & {"notebooks", "tests", "conftest", "flask", "fastapi", "uvicorn"}
    assert path.stem in ("widgets", "panels", "cli") or "ipywidgets" not in names


def code(path: Path) -> str:
    """The Python of a file; of a notebook, its code cells without magics."""
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return re.sub(r"^[%!].*$", "pass", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", [*LIBRARY, *NOTEBOOKS], ids=lambda path: path.stem)
def test_nothing_unpickles_and_nothing_trusts_remote_code(path):
    for node in ast.walk(ast.parse(code(path))):
        line = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module or "", *(alias.name for alias in node.names)]
            assert not {name.split(".")[0] for name in names} & UNPICKLERS, f"{line} imports an unpickler"
        if isinstance(node, ast.keyword):
            forbidden = node.arg in ("trust_remote_code", "allow_pickle")
            assert not forbidden or getattr(node.value, "value", None) is False, f"{line} sets {node.arg}"
        if isinstance(node, ast.Attribute) and node.attr == "load":
            assert getattr(node.value, "id", "") != "torch", f"{line} calls torch.load; use safetensors"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("read_pickle", "to_pickle"), line


@pytest.mark.parametrize("path", [*LIBRARY, *sorted((ROOT / "tests").glob("*.py"))], ids=lambda path: path.stem)
def test_every_file_says_first_what_room_it_is(path):
    docstring = ast.get_docstring(tree(path))
    assert docstring, f"{path.name} has no docstring"
    first = docstring.splitlines()[0]
    assert len(first) >= 20, f"{path.name} opens with {first!r}"


def test_contributing_names_every_room():
    (plan,) = re.findall(r"```\n(the model .*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    rooms = {path.stem for path in LIBRARY} - {"__init__"}
    assert rooms <= set(re.findall(r"\w+", plan)), rooms - set(re.findall(r"\w+", plan))
    for line in plan.splitlines():
        for chain in re.split(r"\s{3,}", line)[1:]:
            groups = [re.findall(r"\w+", group) for group in chain.split(">")]
            assert {room for group in groups for room in group} <= rooms
            for left, right in itertools.pairwise(groups):
                assert not any(set(right) & reachable(room) for room in left), chain


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()  # noqa: E731
    declared = {normal(re.split(r"[<>=!\[; ]", line)[0]) for line in lines}
    owners = importlib.metadata.packages_distributions()
    own = {"curvekit", "benchmarks", "conftest", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    missing = {
        f"{name} ({path.name})"
        for path in [*LIBRARY, *(ROOT / "tests").glob("*.py")]
        for name in {name.split(".")[0] for name in imported(path)} - own - set(sys.stdlib_module_names)
        if not {normal(owner) for owner in owners.get(name, [name])} & declared
    }
    assert not missing, f"pyproject.toml does not declare {sorted(missing)}"


def test_what_is_committed_names_no_folder_of_the_machine_that_made_it():
    kept = [
        ROOT / "curvekit" / "assets",
        *(ROOT / "reports" / name for name in ("benchmarks", "wikitext-2", "wikitext-2-scratch")),
    ]
    pages = [path for folder in kept for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".tex")]
    assert len(pages) > 8
    home = re.compile(r"(?<![\w.])/(home|Users|root|work|tmp|mnt|var)/")
    assert not [str(path) for path in pages if home.search(path.read_text(encoding="utf-8"))]


def test_constraints_pin_every_dependency_exactly_and_portably():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9a-z.]+", line) for line in lines)  # no local version: +cpu
    names = [line.split("==")[0].lower().replace("_", "-") for line in lines]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.split(r"[<>=!\[; ]", line)[0].lower().replace("_", "-")
        assert name == "curvekit" or name in names, f"constraints.txt does not pin {name}"
