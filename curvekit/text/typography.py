"""WikiText's tokenised text as plain English typography: ``a guest @-@ starring role , he said`` and back to prose.

WikiText separates punctuation by spaces, marks joints inside words and numbers as `` @-@ ``, `` @,@ `` and `` @.@ ``,
and headings as `` = = Career = = ``. A model that learned such text writes such text. The words are never changed,
and ``<unk>``, which WikiText-2 has for rare words, stays where it is.
"""

from __future__ import annotations

import re

_HEADING = re.compile(r"\s*((?:= )+)(.*?)((?: =)+)\s*")

# In order: what is glued by a mark of its own first, then what leans on the word before, then on the word after.
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" @([-,.])@ ", r"\1"),  # guest @-@ starring, 1 @,@ 000, 3 @.@ 5
        (r"(?<=\d) – (?=\d)", "–"),  # 2000 – 2005
        (r"(?<=\w) ([‑/]) (?=\w)", r"\1"),  # and / or
        (r"(?<= )' ([^']{1,60}?) '(?=[ .,;:!?)]|$)", r"'\1'"),  # the ' anti-war ' concept
        (r" (?='(?:s|S|t|d|m|re|ve|ll)\b)", ""),  # Teddy 's, he 'd
        (r"\b(do|does|did|is|are|was|were|has|have|had|would|could|should|ca|wo|must|need|ai) n't\b", r"\1n't"),
        (r"(?<=s) '(?= )", "'"),  # the players ' own
        (r" (?=[.,;:!?%)\]}°]+(?:\s|$|[.,;:!?\"')\]]))", ""),
        (r"(?<=[(\[{$£€¥#]) ", ""),
        (r" (\.\.\.)(?= |$)", r"\1"),
    )
]


def plain(text: str) -> str:
    """A WikiText article as paragraphs, one a line, headings among them.

    Quotation marks open and close in turn within a paragraph. Text that has none of these marks passes unchanged,
    up to the space around its lines.
    """
    return "\n".join(filter(None, map(_paragraph, text.splitlines())))


def _paragraph(line: str) -> str:
    if heading := _HEADING.fullmatch(line):
        line = heading[2]
    line = _quotes(line.strip())
    for rule, replacement in _RULES:
        line = rule.sub(replacement, line)
    return line


def _quotes(line: str) -> str:
    """`` " In Safe Hands " `` to ``"In Safe Hands"``."""
    parts = re.split(r'(?:(?<=\s)|^)"(?=\s|$)', line)
    pieces = [parts[0]]
    for number, part in enumerate(parts[1:]):
        if number % 2 == 0:
            pieces += ['"', part.removeprefix(" ")]
        else:
            pieces[-1] = pieces[-1].removesuffix(" ")
            pieces += ['"', part]
    return "".join(pieces)
