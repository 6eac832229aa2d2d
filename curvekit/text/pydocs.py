"""English prose on every machine: the documentation of this Python, one document a module or topic.

Language reference topics come from ``pydoc_data/topics.py``, the rest from docstrings. Sources are read with
``ast`` and never imported: nothing runs, and a module that cannot be imported here is read all the same.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "_vendor", "_vendored", "pydoc_data"}
_TEST_FILE = re.compile(r"(test_.*|.*_test|conftest)\.py")
LICENCE = re.compile(
    r"copyright \(c\)|\(c\) copyright|:copyright:|all rights reserved|no warranty|without warrant"
    r"|permission is hereby granted|permission to use, copy|redistribution and use|licensed under",
    re.IGNORECASE,
)
_RULE = re.compile(r"^(?=.*([-=*~^#+_])\1\1)[-=*~^#+_| \t]+(\n|\Z)", re.MULTILINE)  # under a heading, around a table
_LEAST = 200  # characters; what is shorter is a one-line remark, most often of a codec table


def python_documentation(installed_packages: bool = False) -> list[str]:
    """The documents, in an order that is the same on every machine with the same Python.

    Args:
        installed_packages: also the docstrings of what pip installed (ten times as much, and slower).

    Duplicates, copyright notices, test modules and modules with less than 200 characters are left out, and so are
    lines that are only drawn: a model would learn to draw them, and a prompt would end in them.
    """
    paths = sysconfig.get_paths()
    library = Path(paths["stdlib"])
    documents = [*_topics(library / "pydoc_data" / "topics.py"), *_modules(library)]
    if installed_packages:
        for folder in dict.fromkeys((paths["purelib"], paths["platlib"])):
            documents += _modules(Path(folder))
    texts = (_RULE.sub("", text) for text in documents)
    return [text for text in dict.fromkeys(texts) if len(text) >= _LEAST]


def docstring_rows(most: int = 3000) -> list[dict[str, str]]:
    """Docstrings of the standard library whose first line says what the rest explains.

    Each is ``{"document": the name with its arguments and the rest, "summary": the first line}``, evenly taken from
    all that there are; the order is the same on every machine with the same Python.
    """
    rows: dict[str, dict[str, str]] = {}
    for section in _standard_sections(Path(sysconfig.get_paths()["stdlib"])):
        heading, _, prose = section.partition("\n\n")
        summary, _, rest = prose.partition("\n\n")
        summary = " ".join(summary.split())
        if 20 <= len(summary) <= 160 and len(rest) >= 80 and summary.endswith(".") and not _RULE.search(rest):
            rows.setdefault(summary, {"document": f"{heading}\n{rest}", "summary": summary})
    found = list(rows.values())
    return found[:: max(1, -(-len(found) // most))]


def _standard_sections(library: Path) -> Iterator[str]:
    for path in sources(library):
        try:
            yield from _members(parse(path), "")
        except (SyntaxError, ValueError, RecursionError, OSError):
            continue


def _topics(path: Path) -> Iterator[str]:
    if not path.exists():  # some distributions split it off
        return
    for node in parse(path).body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            yield from (text.strip() + "\n" for _, text in sorted(ast.literal_eval(value).items()))


def _modules(folder: Path) -> Iterator[str]:
    for path in sources(folder):
        try:
            tree = parse(path)
        except (SyntaxError, ValueError, RecursionError, OSError):
            continue  # templates and files of other Python versions: no module of this installation
        sections = list(_sections(tree))
        if sections:
            parts = path.relative_to(folder).with_suffix("").parts
            title = f"The {'.'.join(parts[:-1] if parts[-1] == '__init__' else parts)} module"
            yield "\n\n".join([title, *sections]) + "\n"


def sources(folder: Path) -> Iterator[Path]:
    """The modules below a folder, tests and vendored packages left out, in a steady order."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - _SKIPPED)  # os.walk goes where this list says
        for name in sorted(files):
            if name.endswith(".py") and not _TEST_FILE.fullmatch(name):
                yield Path(place, name)


def parse(path: Path | bytes) -> ast.Module:
    """The syntax tree of a module or of its source; warnings about it are nobody's here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        return ast.parse(path if isinstance(path, bytes) else path.read_bytes())


def _sections(tree: ast.Module) -> Iterator[str]:
    """The docstrings of a module, its classes, methods and functions, each under its name and arguments."""
    if text := _prose(tree):
        yield text
    yield from _members(tree, "")


def _members(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for node in parent.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = prefix + node.name
        if text := _prose(node):
            yield f"{_heading(node, name)}\n\n{text}"
        if isinstance(node, ast.ClassDef):
            yield from _members(node, name + ".")


def _heading(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {name}({', '.join(map(ast.unparse, node.bases))})" if node.bases else f"class {name}"
    arguments = ast.unparse(node.args)
    return f"{name}({re.sub(r'^(self|cls)(, |$)', '', arguments)})"


def _prose(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
    paragraphs = (paragraph.rstrip() for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph and not LICENCE.search(paragraph))
