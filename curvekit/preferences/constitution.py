"""A constitution: principles in a small YAML file, each with a critique, a revision, and where possible a rule.

::

    name: plain speech
    principles:
      - name: finishes
        critique: Does the answer break off in the middle of a sentence?
        revision: Rewrite the answer so that it ends in a full sentence.
        rule: full_sentence

``critique`` and ``revision`` are asked of the critic about an answer; the rule, where there is one, is what its
verdicts are measured by (:mod:`curvekit.preferences.rules`).

Source: Bai et al., "Constitutional AI: Harmlessness from AI Feedback" (2022).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from curvekit.decoding import read_whole
from curvekit.errors import CurvekitError, first_line, pick
from curvekit.files import present
from curvekit.preferences.rules import Rule, rule

MOST = 64  # principles
EXAMPLE = "curvekit constitution --example"
_KNOWN = ("name", "principles")
_FIELDS = ("name", "critique", "revision", "rule")


@dataclass(frozen=True)
class Principle:
    """What an answer is asked: ``critique`` is a question whose yes is a fault, ``revision`` what to do about it."""

    name: str
    critique: str
    revision: str
    rule: str | None = None

    def checked_by(self) -> Rule | None:
        """The rule that can check it, if there is one."""
        return None if self.rule is None else rule(self.rule)


@dataclass(frozen=True)
class Constitution:
    """Principles in the order in which answers are revised by them."""

    name: str
    principles: tuple[Principle, ...]

    def fingerprint(self) -> str:
        """12 hexadecimal digits of all that it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def read_constitution(path: str | Path) -> Constitution:
    """The constitution in a YAML file.

    Raises:
        CurvekitError: there is no such file; it is no YAML, has an unknown key or lacks one; a rule is none.
    """
    path = Path(path)
    if not present(path) or not path.is_file():
        raise CurvekitError(f"there is no file {path}; write a constitution, such as the one that `{EXAMPLE}` shows")
    text = read_whole(path)
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CurvekitError(f"{path} is no YAML ({first_line(error)}); mend it") from error
    if not isinstance(found, dict):
        raise CurvekitError(f"{path} holds {type(found).__name__}; expected the keys name and principles")
    for key in found:
        pick(str(key), _KNOWN, f"key of {path}")
    principles = found.get("principles")
    if not isinstance(principles, list) or not 1 <= len(principles) <= MOST:
        raise CurvekitError(f"{path} has no list of principles; write 1 to {MOST} under `principles:`")
    made = tuple(_principle(each, number, path) for number, each in enumerate(principles, 1))
    if twice := [each.name for each in made if [other.name for other in made].count(each.name) > 1]:
        raise CurvekitError(f"{path} has two principles called {twice[0]!r}; give each a name of its own")
    return Constitution(str(found.get("name", path.stem)), made)


def _principle(found: Any, number: int, path: Path) -> Principle:
    where = f"{path}, principle {number}"
    if not isinstance(found, dict):
        raise CurvekitError(f"{where}, is {ascii(found)[:40]}; expected name, critique, revision and rule")
    for key in found:
        pick(str(key), _FIELDS, f"key of {where}")
    for key in _FIELDS[:3]:
        if not isinstance(found.get(key), str) or not found[key].strip():
            raise CurvekitError(f"{where}, has no {key!r}; write it as text")
    name = found.get("rule")
    if name is not None:
        if not isinstance(name, str):
            raise CurvekitError(f"{where}: rule is {name!r}; name one, such as full_sentence")
        rule(name)
    return Principle(found["name"].strip(), found["critique"].strip(), found["revision"].strip(), name)
