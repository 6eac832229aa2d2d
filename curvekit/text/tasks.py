r"""Tasks as entries: what a row holds, how it is asked, which words are scored, where an answer ends, how it is judged.

A row becomes an :class:`Example`, turns of ``user`` and ``assistant``. What an assistant says is scored, nothing else.
A decoder reads the turns one after the other (``curvekit.text.prompts``); an encoder-decoder takes ``source`` and
``target`` of the same example.

A template is a text with fields in braces, of which the last is the answer: ``Question: {question}\nAnswer: {answer}``.
What stands before it is the prompt. A key of several answers holds a list: the first is trained, all count as right.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from curvekit.errors import CurvekitError, pick
from curvekit.text.pydocs import docstring_rows

KINDS = {  # how answers are judged, see curvekit.evaluation.answers
    "answer": "exact match and F1 of words after SQuAD's normalisation",
    "choice": "accuracy of the likeliest of the answers that there are",
    "summary": "ROUGE and chrF against all references",
    "dialogue": "perplexity of the answers, BLEU, distinct n-grams",
}
ROLES = ("user", "assistant")


class Turn(NamedTuple):
    """What one side says."""

    role: str
    text: str


@dataclass(frozen=True)
class Example:
    """A row as it is asked: turns, the last of which is the right answer, and all answers that count as right.

    ``fields`` are those of the row that the template took, for a prompt that must be cut.
    """

    turns: tuple[Turn, ...]
    references: tuple[str, ...]
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What is given: the prompt, or all turns before the last with who said them."""
        if len(self.turns) == 2:
            return self.turns[0].text
        return "\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in self.turns[:-1])

    @property
    def target(self) -> str:
        """What is to be written."""
        return self.turns[-1].text


class Hub(NamedTuple):
    """Where rows are on the hub, in data files, and what turns one of them into ours."""

    repository: str
    config: str | None
    splits: Mapping[str, str]  # ours: theirs
    row: Callable[[Mapping[str, Any]], dict[str, Any]]
    revision: str = "main"


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name, about: how it is called, and a sentence for help and tables.
        kind: how answers are judged, a key of :data:`KINDS`.
        template: the prompt and, as its last field, the answer; of dialogues what stands between turns.
        cut: the field that is shortened, or read window by window, where a prompt is too long.
        windows: read the ``cut`` field window by window and take the likeliest answer, instead of its beginning.
        extractive: every answer stands word for word in the ``cut`` field.
        labels: all answers that there are, of a choice.
        group: the field whose equal values stay in one split.
        new_tokens: an answer's tokens at most.
        stop: what ends an answer besides the end-of-text token.
        hub: where its rows are online, if they are.
        here: what makes its rows on any machine, if anything does.
    """

    name: str
    about: str
    kind: str
    template: str
    cut: str | None = None
    windows: bool = False
    extractive: bool = False
    labels: tuple[str, ...] = ()
    group: str | None = None
    new_tokens: int = 32
    stop: tuple[str, ...] = ("\n",)
    hub: Hub | None = None
    here: Callable[[], list[dict[str, Any]]] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What a row must hold; the last is the answer."""
        return ("turns",) if self.kind == "dialogue" else template_fields(self.template)

    @property
    def figure(self) -> str:
        return {"answer": "f1", "choice": "accuracy", "summary": "rougeL", "dialogue": "perplexity"}[self.kind]

    def prompt(self, fields: Mapping[str, str]) -> str:
        """What is asked: the template before its last field, filled."""
        head = self.template[: self.template.rindex("{")]  # trailing spaces are the answer's, as tokenisers cut
        return head.rstrip(" ").format_map(fields)

    def example(self, row: Mapping[str, Any], source: str = "the row") -> Example:
        """A row as it is asked.

        Raises:
            CurvekitError: it lacks a key, or its answer is empty, no text, not among the labels, or not in the field
                that it should be taken from; of a dialogue, one side speaks twice, or never.
        """
        if self.kind == "dialogue":
            return _dialogue(row, source)
        *asked, key = self.keys
        missing = [name for name in self.keys if name not in row]
        if missing:
            raise CurvekitError(
                f"{source} has no key {missing[0]!r} (it has {', '.join(map(repr, row)) or 'none'}); "
                "rename its key, or give a template of those that are there"
            )
        fields = {name: _text(row[name], name, source) for name in asked}
        answers = row[key] if isinstance(row[key], list) else [row[key]]
        references = tuple(dict.fromkeys(_text(answer, key, source).strip() for answer in answers))
        if not references or not all(references):
            raise CurvekitError(f"{source} has an empty answer ({key!r}); write one, or take the row out")
        if self.labels and references[0] not in self.labels:
            raise CurvekitError(
                f"{source} has the answer {references[0][:40]!r}; {self.name} knows {', '.join(map(repr, self.labels))}"
            )
        if self.extractive and self.cut and (lost := [each for each in references if each not in fields[self.cut]]):
            raise CurvekitError(
                f"{source} has the answer {lost[0][:40]!r}, which does not stand in its {self.cut!r}; "
                "mend the row, or take it out"
            )
        return Example((Turn("user", self.prompt(fields)), Turn("assistant", references[0])), references, fields)


def _text(value: Any, key: str, source: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise CurvekitError(f"{source} has under {key!r} {ascii(value)[:40]}; expected text")
    text = str(value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise CurvekitError(f"{source} is no Unicode under {key!r}: it holds half of a surrogate pair; mend it")
    return text


def _dialogue(row: Mapping[str, Any], source: str) -> Example:
    """The turns of a dialogue up to the last that is an answer."""
    if not isinstance(row.get("turns"), list) or not row["turns"]:
        raise CurvekitError(
            f"{source} has no key 'turns' with a list (it has {', '.join(map(repr, row)) or 'none'}); "
            "give a list of objects with role and text, or a template of the keys there are"
        )
    turns: list[Turn] = []
    for number, each in enumerate(row["turns"], start=1):
        if not isinstance(each, dict) or each.get("role") not in ROLES or "text" not in each:
            raise CurvekitError(
                f"{source}, turn {number}, is {ascii(each)[:40]}; expected an object with text and a role, "
                "user or assistant"
            )
        if turns and turns[-1].role == each["role"]:
            raise CurvekitError(
                f"{source}, turn {number}: {each['role']} speaks twice in a row; join the two turns into one"
            )
        text = " ".join(_text(each["text"], "text", f"{source}, turn {number},").split())
        if not text:
            raise CurvekitError(f"{source}, turn {number}, is empty; write it, or take the row out")
        turns.append(Turn(each["role"], text))
    while turns and turns[-1].role != "assistant":
        turns.pop()
    if len(turns) < 2:
        raise CurvekitError(f"{source} has no answer: an assistant's turn after a user's; take the row out")
    return Example(tuple(turns), (turns[-1].text,))


def template_fields(template: str) -> tuple[str, ...]:
    """The names in a template's braces, in order.

    Raises:
        CurvekitError: braces that do not close, a field that is no plain name, fewer than two fields, or text behind
            the last one other than line ends.
    """
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise CurvekitError(f"template is {template[:60]!r} ({error}); write fields as {{name}}") from error
    names = [name for name, _, _ in parts if name is not None]
    if any(not name.isidentifier() or spec or conversion for name, spec, conversion in parts if name is not None):
        raise CurvekitError(f"template is {template[:60]!r}; write fields as {{name}}, with keys of the rows")
    if len(names) < 2 or parts[-1][0] is None or names[-1] in names[:-1]:
        raise CurvekitError(
            f"template is {template[:60]!r}; it needs a field of what is asked and, last of all, one of the answer, "
            "such as 'Question: {question} Answer: {answer}'"
        )
    return tuple(dict.fromkeys(names))


def _squad(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"context": row["context"], "question": row["question"], "answers": row["answers"]["text"]}


def _strategy(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"context": row["facts"], "question": row["question"], "answers": ["yes" if row["answer"] else "no"]}


def _tldr(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"document": " ".join(row["source"]), "references": row["target"]}


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "docstrings",
            "the first line of a docstring, from the rest of it, of this Python's own library: needs no network",
            "summary",
            "{document}\n\nSay in one sentence what this does.\nSummary: {summary}",
            cut="document",
            new_tokens=40,
            here=docstring_rows,
        ),
        Task(
            "squad_qa",
            "questions on paragraphs of Wikipedia, whose answers stand in them (SQuAD)",
            "answer",
            "{context}\n\nAnswer the question with a few words of the text above.\nQuestion: {question}\n"
            "Answer: {answers}",
            cut="context",
            windows=True,
            extractive=True,
            group="context",
            new_tokens=24,
            hub=Hub("rajpurkar/squad", None, {"train": "train", "test": "validation"}, _squad),
        ),
        Task(
            "strategyqa",
            "yes or no, of several facts (StrategyQA)",
            "choice",
            "{context}\n\nAnswer yes or no.\nQuestion: {question}\nAnswer: {answers}",
            cut="context",
            labels=("yes", "no"),
            new_tokens=2,
            hub=Hub("ChilleD/StrategyQA", None, {"train": "train", "test": "test"}, _strategy),
        ),
        Task(
            "scitldr",
            "one sentence of the abstract of a paper (SciTLDR)",
            "summary",
            "{document}\n\nSay in one sentence what the text above is about.\nSummary: {references}",
            cut="document",
            new_tokens=64,
            hub=Hub(
                "allenai/scitldr",
                "Abstract",
                {"train": "train", "validation": "validation", "test": "test"},
                _tldr,
                "refs/convert/parquet",
            ),
        ),
        Task(
            "topical_chat",
            "conversations of two people on all sorts of topics (Topical-Chat)",
            "dialogue",
            "",
            new_tokens=48,
        ),
        Task(
            "sgd_dialogues",
            "conversations with an assistant that books and looks up (SGD)",
            "dialogue",
            "",
            new_tokens=48,
        ),
    )
}


def find_task(name: str, template: str | None = None, judged: str | None = None) -> Task:
    """A task by its name, or one of a user's own rows in a file or folder, with a template.

    Args:
        name: of :data:`TASKS`, or a path to ``.jsonl`` rows.
        template: instead of the task's own; of own rows without one, they must be dialogues (``turns``).
        judged: a key of :data:`KINDS`; of own rows ``answer`` by default, with a template, else ``dialogue``.

    Raises:
        CurvekitError: an unknown name, a template that cannot be used, or a kind that there is none of.
    """
    path = Path(name)
    own = name not in TASKS and (path.suffix == ".jsonl" or path.is_dir() or "/" in name)
    if judged is not None:
        pick(judged, KINDS, "judged")
    template = None if template is None else template.replace("\\n", "\n")  # as a shell hands it on
    if not own:
        task = TASKS[pick(name, TASKS, "task")]
        if judged not in (None, task.kind):
            raise CurvekitError(f"judged is {judged!r}, and {name} is judged as {task.kind!r}; leave it out")
        if template is None:
            return task
        if task.kind == "dialogue":
            raise CurvekitError(f"template is {template[:40]!r}, and dialogues have none; leave it out")
        fields = template_fields(template)
        return replace(task, template=template, cut=task.cut if task.cut in fields else None)
    kind = judged or ("dialogue" if template is None else "answer")
    if (kind == "dialogue") != (template is None):
        told = "dialogues have no template; leave it out" if template else "give a template, such as '{ask} => {say}'"
        raise CurvekitError(f"{name} is judged as {kind!r}; {told}")
    if template is None:
        return Task(path.stem, f"dialogues of {path.name}", kind, "", new_tokens=48)
    fields = template_fields(template)
    return Task(path.stem, f"rows of {path.name}", kind, template, cut=fields[0], new_tokens=48)
