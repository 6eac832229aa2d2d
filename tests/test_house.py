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
LIBRARY = sorted(path for path in (ROOT / "curvekit").rglob("*.py") if path != ROOT / "curvekit" / "__main__.py")
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The wings from the ground up: a wing builds on those before it and never on one after it, whatever room it is in.
WINGS = (
    "idea", "variants", "bases", "text", "steering", "generation", "evaluation", "training", "experiments",
    "preferences",
    "figures", "reports", "widgets", "serving", "cli",
)  # fmt: skip
# The same inside the wings: what stands left never imports, directly or by others, what stands right of it.
ARROWS = (
    "normalisers > attention > modeling > causality",
    "curves > modeling",
    "encoders > modeling",
    "text.stories > text.documents > text.corpora > text.packing",
    "bases.cached > bases.gguf > bases.smollm2 > bases.hub",
    "text.tokenization > text.packing",
    "training.runs > training.tracking > training.trainer > training.pretraining > training.cards",
    "training.checkpoints > training.trainer",
    "evaluation.metrics > evaluation.significance",
    "steering.control > steering.pplm > steering.steered",
    "generation.sampling > generation.streams > generation.console",
    "generation.streams > generation.batching",
    "serving.orders > serving.voices > serving.answers > serving.door > serving.service",
    "serving.voices > serving.gradio_demo",
    "figures.drawing > figures.shading",
    "figures.drawing > figures.normalisers > figures.attention",
    "widgets.panels > widgets.writing > widgets.playground",
    "widgets.controls > widgets.writing > widgets.side_by_side",
    "reports.markup > reports.pages > reports.execution",
    "errors > files > text.corpora",
)
# What every room may stand on, and stands on nothing above.
EVERYWHERE = {"errors", "decoding", "shapes", "files", "ownership", "modes", "lazy"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_of(path: Path) -> str:
    """A room's name below ``curvekit``: ``text.corpora``; of a wing's ``__init__``, the wing's."""
    parts = path.relative_to(ROOT / "curvekit").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


ROOMS = {name_of(path): path for path in LIBRARY}


def wing_of(room: str) -> str:
    return room.split(".")[0] if (ROOT / "curvekit" / room.split(".")[0]).is_dir() else "idea"


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, lazily or not, as dotted names."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively; name the room in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def public(wing: str) -> dict[str, str]:
    """The public names of a wing, and the room that each comes from."""
    for node in tree(ROOMS[wing]).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_HOMES":
            return {name: f"{wing}.{room}" for name, room in ast.literal_eval(node.value).items()}
    return {}


@cache
def neighbours(room: str) -> frozenset[str]:
    """The rooms of the library that a room imports, those behind a wing's public names included."""
    found = set()
    for name in imported(ROOMS[room]):
        head, _, rest = name.partition(".")
        if head != "curvekit" or not rest:
            continue
        place, _, last = rest.rpartition(".")
        if rest in ROOMS:
            found.add(rest)
        elif place in ROOMS and last in (homes := public(place)):
            found.add(homes[last])
        elif place in ROOMS:
            found.add(place)
    return frozenset(found - {room})


def reachable(room: str) -> set[str]:
    found: set[str] = set()
    waiting = [room]
    while waiting:
        new = neighbours(waiting.pop()) - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_reaches_itself(room):
    assert room not in reachable(room)


def test_wings_build_only_on_the_wings_below_them():
    assert {wing_of(room) for room in ROOMS} == set(WINGS)
    wrong = [
        f"{room} imports {other}"
        for room in ROOMS
        for other in neighbours(room) - EVERYWHERE
        if room in EVERYWHERE or WINGS.index(wing_of(other)) > WINGS.index(wing_of(room))
    ]
    assert not wrong


@pytest.mark.parametrize("arrow", ARROWS)
def test_arrows_point_one_way(arrow):
    rooms = arrow.split(" > ")
    assert set(rooms) <= set(ROOMS)
    for place, room in enumerate(rooms):
        assert not reachable(room) & set(rooms[place + 1 :]), f"{room} builds on a room above it"


@pytest.mark.parametrize("wing", ["__init__", *(wing for wing in WINGS if wing != "idea")])
def test_no_public_name_is_also_a_room_of_its_wing(wing):
    rooms = {room.rpartition(".")[2] for room in ROOMS if room.rpartition(".")[0] == wing.removeprefix("__init__")}
    assert not set(public(wing)) & rooms, "importing the room would put it in the name's place"


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_imports_no_notebook_no_test_and_only_widgets_import_widgets(path):
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & {"notebooks", "tests", "conftest"}
    assert wing_of(name_of(path)) == "serving" or not names & {
        "flask",
        "fastapi",
        "starlette",
        "uvicorn",
        "gradio",
        "ray",
    }
    assert wing_of(name_of(path)) == "widgets" or "ipywidgets" not in names


@pytest.mark.parametrize("wing", [wing for wing in WINGS if wing != "idea"])
def test_a_wing_says_what_it_is_for_and_names_rooms_that_it_has(wing):
    docstring = ast.get_docstring(tree(ROOMS[wing]))
    assert docstring and len(docstring.splitlines()[0]) >= 40
    package = importlib.import_module(f"curvekit.{wing}")
    assert package.__all__ and all(getattr(package, name) is not None for name in package.__all__)
    assert f"`{wing}/`" in (ROOT / "CONTRIBUTING.md").read_text(), f"CONTRIBUTING does not name {wing}/"


def test_tests_stand_in_the_wings_of_what_they_test():
    folders = {path.parent.name for path in TESTS if path.parent != ROOT / "tests"}
    assert folders <= set(WINGS), folders - set(WINGS)


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


@pytest.mark.parametrize("path", [*LIBRARY, *TESTS], ids=lambda path: path.stem)
def test_every_file_says_first_what_room_it_is(path):
    docstring = ast.get_docstring(tree(path))
    assert docstring, f"{path.name} has no docstring"
    first = docstring.splitlines()[0]
    assert len(first) >= 20, f"{path.name} opens with {first!r}"


def test_contributing_names_every_room():
    (plan,) = re.findall(r"```\n(the idea .*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    wing = ""
    seen: set[str] = set()
    for line in plan.splitlines():
        head, rest = line[:15].strip(), line[15:]
        if head:
            wing = "" if head in ("the idea", "everywhere") else head.rstrip("/") + "."
        for chain in re.split(r"\s{3,}", rest.strip()):
            groups = [[wing + room for room in re.findall(r"\w+", group)] for group in chain.split(">")]
            seen |= {room for group in groups for room in group}
            for left, right in itertools.pairwise(groups):
                assert not any(set(right) & reachable(room) for room in left), chain
    own = {room for room, path in ROOMS.items() if path.name not in ("__init__.py", "__main__.py")}
    assert seen == own, seen ^ own


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()  # noqa: E731
    declared = {normal(re.split(r"[<>=!\[; ]", line)[0]) for line in lines}
    owners = importlib.metadata.packages_distributions()
    own = {"curvekit", "benchmarks", "conftest", *(path.stem for path in TESTS)}
    missing = {
        f"{name} ({path.name})"
        for path in [*LIBRARY, *TESTS]
        for name in {name.split(".")[0] for name in imported(path)} - own - set(sys.stdlib_module_names)
        if not {normal(owner) for owner in owners.get(name, [name])} & declared
    }
    assert not missing, f"pyproject.toml does not declare {sorted(missing)}"


def test_what_is_committed_names_no_folder_of_the_machine_that_made_it():
    published = re.findall(r"^!/(reports/[\w-]+)/$", (ROOT / ".gitignore").read_text(), flags=re.MULTILINE)
    kept = [ROOT / "curvekit" / "assets", *(ROOT / folder for folder in published)]
    assert len(kept) > 20
    files = [path for folder in kept for path in folder.rglob("*") if "runs" not in path.relative_to(folder).parts]
    pages = [path for path in files if path.suffix in (".json", ".jsonl", ".md", ".tex")]
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


@pytest.mark.parametrize("page", ["Makefile", "README.md", "CONTRIBUTING.md"])
def test_every_source_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/])(?:tests|curvekit|notebooks|benchmarks)/[\w/.]*\.(?:py|ipynb)\b", text))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize(
    "path", [p for p in LIBRARY if p.parent.name in ("experiments", "reports")], ids=lambda p: p.stem
)
def test_a_module_that_is_a_command_ends_in_a_sentence(path):
    _, is_command, called = path.read_text(encoding="utf-8").partition('if __name__ == "__main__":')
    assert not is_command or called == "\n    as_command(main)\n"
