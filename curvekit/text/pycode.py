"""Python code on every machine: the source of the installation it runs on, read and never imported.

A document is a module without its licence. Generated and vendored files are left out, and so are tests, repeats, what
does not parse, and what is all data. Which package a module belongs to is said beside it, so that whole packages can
be held out: modules of one package come from the same hands, and a model that has read half of them knows the rest.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import io
import re
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from curvekit.text.pydocs import LICENCE, parse, sources

_GENERATED = re.compile(
    r"(?:automatically|auto-?)\s*-?generated|generated (?:by|from|with)\b|do not (?:edit|modify)\b|@generated",
    re.IGNORECASE,
)
_GENERATED_NAMES = re.compile(
    r".*(_pb2(_grpc)?|_generated|parsetab|lextab|_version|_sysconfigdata.*)\.py", re.IGNORECASE
)
_VENDORED = {
    "_vendor",
    "_vendored",
    "vendor",
    "vendored",
    "extern",
    "externals",
    "third_party",
    "thirdparty",
    "lib2to3",
}
_STATED = re.compile(r"copyright|\blicen[cs]ed?\b|all rights reserved|\bSPDX\b", re.IGNORECASE)  # in a comment
_HEAD = 2_000  # characters in which a file says that it was generated
_LEAST, _MOST = 400, 200_000  # characters; above are tables
_DATA = 0.5  # share of a module's characters in numbers and strings that are no docstrings, from which it is data
_HELD_OUT = 0.06  # of the packages, for validation and for the test each


def python_source(installed_packages: bool = True) -> Iterator[tuple[str, str]]:
    """``(package, source)`` of every module that is kept, in an order that is the same for the same installation.

    Args:
        installed_packages: also what pip installed; without it, the standard library alone.
    """
    paths = sysconfig.get_paths()
    folders = [Path(paths["stdlib"])]
    if installed_packages:
        folders += [Path(folder) for folder in dict.fromkeys((paths["purelib"], paths["platlib"]))]
    seen: set[bytes] = set()
    for folder in folders:
        for path in sources(folder):
            parts = path.relative_to(folder).parts
            if _VENDORED & set(parts) or _GENERATED_NAMES.fullmatch(path.name):
                continue
            text = module_text(path)
            if text is None or (digest := shape_of(text)) in seen:
                continue
            seen.add(digest)
            library = folder == folders[0]
            package = f"python/{parts[0].removesuffix('.py')}" if library else distribution_of(parts[0])
            yield package, text


def module_text(path: Path) -> str | None:
    """The source of a module as it is trained on; None where it is no code that somebody wrote."""
    try:
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
        if not _LEAST <= len(text) <= _MOST or _GENERATED.search(text[:_HEAD]):
            return None
        kept = without_licence(text)
        tree = parse(kept.encode())
    except (OSError, UnicodeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if len(kept) < _LEAST or _is_data(tree, len(kept)):
        return None
    return kept


def without_licence(text: str) -> str:
    """A module without the comments that state its licence: runs of comment lines of which one names it.

    A licence in the module's docstring takes its paragraph with it.
    """
    lines = text.split("\n")
    kept: list[str] = []
    at = 0
    while at < len(lines):
        end = at
        while end < len(lines) and lines[end].lstrip().startswith("#"):
            end += 1
        block = lines[at:end]
        if block and _STATED.search("\n".join(block)):
            kept += [line for line in block if line.startswith("#!") or "coding" in line[:30]]
        else:
            kept += block
        if end < len(lines):
            kept.append(lines[end])
        at = end + 1
    return _docstring_without_licence("\n".join(kept).lstrip("\n"))


def _docstring_without_licence(text: str) -> str:
    tree = parse(text.encode())
    said = ast.get_docstring(tree, clean=False)
    if not said or not LICENCE.search(said):
        return text
    node = tree.body[0]
    lines = text.split("\n")
    paragraphs = re.split(r"\n\s*\n", said)
    rest = "\n\n".join(paragraph for paragraph in paragraphs if not LICENCE.search(paragraph)).strip()
    safe = rest.replace("\\", "\\\\").replace('"""', "'''")
    new = [f'"""{safe}\n"""'] if rest else []
    return "\n".join([*lines[: node.lineno - 1], *new, *lines[node.end_lineno or node.lineno :]]).lstrip("\n")


def _is_data(tree: ast.Module, size: int) -> bool:
    """Whether most of a module is constants."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    held = sum(
        len(repr(node.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in docstrings
    )
    return held > _DATA * size


def shape_of(text: str) -> bytes:
    """A digest of a module's tokens, which neither comments nor spaces change: vendored copies have the same."""
    digest = hashlib.blake2b(digest_size=16)
    for token in _tokens(text):
        digest.update(token.string.encode() + b"\0")
    return digest.digest()


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in skipped:
                yield token
    except (tokenize.TokenError, SyntaxError):
        return


@cache
def _owners() -> dict[str, str]:
    return {top: sorted(owners)[0].lower() for top, owners in importlib.metadata.packages_distributions().items()}


def distribution_of(top: str) -> str:
    """The package that a top-level module or folder was installed by; its own name where none says."""
    return _owners().get(top.removesuffix(".py"), top.removesuffix(".py").lower())


def split_packages(modules: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The modules of each split: whole packages by the hash of their names, 6 % for validation and the test each.

    A held-out split has one package at least.
    """
    by_package: dict[str, list[str]] = {}
    for package, text in modules:
        by_package.setdefault(package, []).append(text)
    order = sorted(by_package, key=_place)
    first = max(1, sum(_place(package) < _HELD_OUT for package in order))
    second = max(first + 1, sum(_place(package) < 2 * _HELD_OUT for package in order))
    parts = {"train": order[second:], "validation": order[:first], "test": order[first:second]}
    return {split: [text for package in names for text in by_package[package]] for split, names in parts.items()}


def _place(package: str) -> float:
    return int.from_bytes(hashlib.sha256(package.encode()).digest()[:8], "big") / 2**64
