"""How good a model is at Python: whether what it writes parses, and whether it knows the names.

Nothing that a model has written is run, nor made into code objects: it is parsed into a syntax tree and let go.

====================  ============================================================================================
parses                share of completions whose whole lines, behind their beginnings, are Python
unfinished            share of those that would be, if they went on: an open bracket, a block without its body
wrong                 the rest
identifier_accuracy   share of the identifiers of held-out code of which every token was ranked first
known, new            the same for identifiers that stand earlier in the module, and for those that do not
====================  ============================================================================================
"""

from __future__ import annotations

import ast
import builtins
import io
import keyword
import tokenize
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from curvekit.evaluation.metrics import TokenScores, score_documents
from curvekit.generation.streams import generate

_ALLOW_INCOMPLETE = 0x4000  # of CPython's compile, as its codeop uses it
_PROMPT, _LONGEST = 40, 6_000  # lines of a beginning; characters of a scored module
_BUILTIN = frozenset(dir(builtins))


def verdict(text: str) -> str:
    """``parses``, ``unfinished`` or ``wrong``, of Python as a whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "<text>", "exec", ast.PyCF_ONLY_AST | _ALLOW_INCOMPLETE)
    except SyntaxError as error:
        return "unfinished" if "incomplete input" in str(error) or "unterminated triple" in str(error) else "wrong"
    except (ValueError, RecursionError, MemoryError):  # a NUL, or too deep
        return "wrong"
    return "parses"


def beginning(text: str, lines: int = _PROMPT) -> str | None:
    """The first lines of a module, as far as they are the beginning of Python; None of a shorter module."""
    every = text.splitlines(keepends=True)
    if len(every) < lines + 5:
        return None
    start = "".join(every[:lines])
    return start if verdict(start) != "wrong" else None


def completions(
    model: Any, tokenizer: Any, texts: Sequence[str], count: int = 16, **sampling: Any
) -> list[dict[str, str]]:
    """Rows ``prompt, completion, verdict`` for the beginnings of the first ``count`` modules that are long enough.

    A last line that was broken off is left out; a completion without one whole line is ``unfinished``.
    """
    prompts = [start for text in texts if (start := beginning(text))][:count]
    if not prompts:
        return []
    written = generate(model, tokenizer, prompts, **{"max_new_tokens": 64, "temperature": 0.0, **sampling})
    rows = []
    for prompt, text in zip(prompts, written, strict=True):
        whole = text[: text.rfind("\n") + 1]
        judged = verdict(prompt + whole) if whole.strip() else "unfinished"
        rows.append({"prompt": prompt, "completion": text, "verdict": judged})
    return rows


def identifiers(text: str) -> list[tuple[int, int, bool]]:
    """Where names begin and end in a module, and whether each stands earlier in it; no keywords and no built-ins."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found, seen = [], set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME and not keyword.iskeyword(token.string) and token.string not in _BUILTIN:
                begin = starts[token.start[0] - 1] + token.start[1]
                found.append((begin, begin + len(token.string), token.string in seen))
                seen.add(token.string)
    except (tokenize.TokenError, SyntaxError):
        pass  # a module that was cut: what came before it counts
    return found


def code_metrics(
    model: Any, tokenizer: Any, texts: Sequence[str], *, context: int | None = None, count: int = 16, **sampling: Any
) -> dict[str, Any]:
    """Score modules, at most 6,000 characters of each, and complete the beginnings of ``count`` of them.

    Returns:
        ``bits_per_byte``; ``identifier_accuracy``, ``known`` and ``new`` with ``identifiers`` (how many); ``parses``,
        ``unfinished`` and ``wrong`` with ``completions`` (how many), None where there is nothing to divide by.
    """
    texts = [text[:_LONGEST] for text in texts]
    hits = [np.zeros(0, bool)] * len(texts)

    def keep(scores: TokenScores) -> None:
        end = scores.begin + len(scores.hits)
        if len(hits[scores.document]) < end:
            hits[scores.document] = np.pad(hits[scores.document], (0, end - len(hits[scores.document])))
        hits[scores.document][scores.begin : end] = scores.hits

    score = score_documents(model, tokenizer, texts, context=context, on_tokens=keep)
    right, total = np.zeros(2), np.zeros(2)  # of names that are new, and of those that are known
    for text, ranked in zip(texts, hits, strict=True):
        offsets = np.array(
            tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        ).reshape(-1, 2)
        for begin, end, known in identifiers(text):
            parts = (offsets[:, 1] > begin) & (offsets[:, 0] < end)
            total[int(known)] += 1
            right[int(known)] += bool(ranked[parts].all())
    rows = completions(model, tokenizer, texts, count, **sampling) if count else []
    shares = {name: _share(sum(row["verdict"] == name for row in rows), len(rows)) for name in VERDICTS}
    return {
        "bits_per_byte": score.bits_per_byte,
        "identifier_accuracy": _share(right.sum(), total.sum()),
        "new": _share(right[0], total[0]),
        "known": _share(right[1], total[1]),
        "identifiers": int(total.sum()),
        **shares,
        "completions": len(rows),
    }


VERDICTS = ("parses", "unfinished", "wrong")


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
