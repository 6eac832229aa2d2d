"""The short-story format, ``<sos> title <nl> paragraph <nl> ... <eos>``: to plain text and back, trailers cut off.

As plain text a story has its title on the first line and a paragraph on each further one: ``<nl>`` is a line break.

Collections in this format come from forums, where a story often ends in something else: links, the narrator's
newsletter, the next part. Such a trailer is cut, and nothing before it. A story is read backwards, sentence by
sentence, as long as a rule of ``RULES`` names each; what was read is cut if one of the names says more than
``closing``. The first honest sentence ends it, so a link or a "Part 2 of the plan" inside a story stays.

The widely copied expression for this,
``<nl>.*?(\\[.*?\\]\\(http[s]?://\\S+\\)|subscribe|/r/|PART \\d+).*?<eos>``, begins at the first ``<nl>`` and deletes
all but the title, in old stories too: people subscribe to newspapers there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from curvekit.errors import CurvekitError

BEGIN, BREAK, END = "<sos>", "<nl>", "<eos>"
FORM = f"{BEGIN} title {BREAK} paragraph {BREAK} ... {END}"

# What a sentence of a trailer is. `closing` alone is cut from no story: people say such things in honest endings.
RULES = {
    "link": "a Markdown link; a web address that stands alone or in a call to go there",
    "subreddit": "/r/name or /u/name, alone or in a call to go there",
    "subscription": "a call to subscribe",
    "part": "PART n: as a paragraph of its own, or with where the part is",
    "promotion": "a shop or a social page in a call to go there; the author's other works; a wish for feedback",
    "closing": "beside one of the above: thanks to the reader, notes on edits, rules of dashes or stars",
}

_TAG = re.compile(f"({BEGIN}|{END})")
_LINE_BREAK = re.compile(rf"(?:[\r\n]+ ?)?{BREAK}(?: ?[\r\n]+)?|[\r\n]+")
_LINK = re.compile(r"(?:\[[^\[\]]{0,300})?\]\(\s*https?://[^\s)]*\)?")
_ADDRESS = re.compile(r"https?://\S+|\bwww\.[\w-]+\.\S+")
_MENTION = re.compile(r"(?<![\w./])/?[ru]/\w{2,21}\b")
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]*_]*\s+")
_LONGEST = 300  # characters of a sentence in a trailer, without its links
_MARKUP = r"[\s*#_~>\[\](){}|:.!–—-]*"

_I = re.IGNORECASE
_CALL = re.compile(
    r"^\W*(?:(?:please|also|and|so|feel free to|be sure to|make sure to|don[’']t forget to)\W+)?"
    r"(?:check|visit|follow|join|see|read|find|come|head|go|drop|support|like|buy|get)\b"
    r"|^\W*(?:for )?more\b|\bmore (?:of my|stories|like this|writing|parts|work)\b"
    r"|\bmy (?:\w+ )?(?:sub(?:reddit)?|stories|works?|writing|profile|page|blog|channel|newsletter)\b"
    r"|\bif you(?:[’']d)? (?:liked?|enjoy(?:ed)?|want|wish|would|are interested)\b"
    r"|\b(?:can be|can|be) f(?:i|ou)nd\b|\bcheck (?:it |them |me )?out\b|\b(?:over|posted) (?:at|on|in|to)\b"
    r"|\b(?:x|cross)-?post(?:ed)?\b",
    _I,
)
_SUBSCRIBE = re.compile(
    r"^\W*(?:(?:please|also|and|so|like,?(?: share,?)? and|don[’']t forget to|be sure to|make sure (?:to|you)"
    r"|remember to|consider|feel free to|you can)\W+)*subscrib(?:e|ing)(?: (?:to|for|here|now|below|if|and)\b|\W*$)"
    r"|\bsubscrib\w+ (?:to|for) (?:my|our|this) (?:\w+ )?(?:channel|newsletter|list|blog|page|patreon|sub|subreddit"
    r"|feed|podcast|stories|updates)\b|\b(?:hit|click|press|smash) (?:the |that )?subscribe\b"
    r"|\bif you(?:[’']d)? (?:liked?|enjoy(?:ed)?|want)\b.*\bsubscribe\b",
    _I,
)
_PART = re.compile(
    rf"{_MARKUP}(?:(?:to be continued|continued|continue|continues|next|read|click here for|link to|on to|go to|see)\b"
    rf"{_MARKUP}(?:(?:in|with|for|to)\s+)?)?part\s+(?:\d+|[ivx]+|one|two|three|four|five|six|seven|eight|nine|ten)\b"
    rf"(?:\s*(?:of|/)\s*\d+)?(?P<tail>{_MARKUP}(?:(?:is |will be |can be found |has been |now )*"
    r"(?:in the comments?|in a comment|here|below|up|out|live|posted|added|coming|available|tomorrow|next week|soon)\b"
    rf"[\w\s,’']{{0,60}})?){_MARKUP}",
    _I,
)
_PAGES = re.compile(
    r"\b(?:patreon|ko-?fi|kickstarter|gofundme|wattpad|royal ?road|amazon|kindle|audible|discord|twitter|instagram"
    r"|facebook|tumblr|youtube)\b",
    _I,
)
_PROMOTION = re.compile(
    r"\bcheck out my\b|\bmore of my (?:stories|works?|writing|stuff)\b"
    r"|\bmy (?:\w+ )?(?:book|novel|collection|series|stories) (?:is|are) (?:now )?(?:available|out now|on sale)\b"
    r"|\b(?:feedback|critiques?|constructive criticism|upvotes?)\b[^.]{0,40}\b(?:welcome|appreciated)\b",
    _I,
)
_CLOSING = re.compile(
    r"^[\W_]*$|^\W*(?:&#x200b;|&nbsp;)\W*$|^\W*(?:edit|update|p\.?s\.?|a/?n|author[’']s note)\W*\d*\W*[:–—-]"
    r"|\bthank(?:s| you)\b.{0,40}\b(?:reading|gold|upvot\w+|support)\b|^\W*(?:I )?hope you (?:\w+ )?(?:liked?|enjoy)"
    r"|\bif you(?:[’']d)? (?:liked?|enjoy(?:ed)?)\b|\blet me know\b|^\W*to be continued\W*$|^\W*tbc\W*$|\bstay tuned\b"
    r"|\bmore (?:is |are )?(?:coming|to come)\b",
    _I,
)
_TO_THE_READER = re.compile(r"\b(?:I|you|your|my|me|we|us|our)\b", _I)


class Cut(NamedTuple):
    """One sentence that was cut off, and the rule that named it."""

    rule: str
    text: str


@dataclass
class StoryReport:
    """What became of the stories of a file.

    Attributes:
        stories: stories that were kept.
        characters: their length, what was cut included.
        touched: stories of which something was cut.
        by_rule: rule -> (stories touched, characters cut).
        empty: stories without a paragraph, which were left out.
        trailers: stories of which a trailer was all, which were left out.
        unended: stories without ``<eos>``, which were kept.
    """

    stories: int = 0
    characters: int = 0
    touched: int = 0
    by_rule: dict[str, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(RULES, (0, 0)))
    empty: int = 0
    trailers: int = 0
    unended: int = 0

    def __str__(self) -> str:
        cut = [f"{rule} {n:,} ({size:,} characters)" for rule, (n, size) in self.by_rule.items() if n]
        said = f"{self.stories:,} stories, the ends of {self.touched:,} cut" + (f": {', '.join(cut)}" if cut else "")
        said += f"; {self.empty:,} without a paragraph left out" if self.empty else ""
        said += f"; {self.trailers:,} that were all trailer left out" if self.trailers else ""
        return said + (f"; {self.unended:,} without {END} kept as they are" if self.unended else "")

    def table(self) -> str:
        """Rule, stories touched, characters cut and their share, as Markdown."""
        rows = [
            f"| {rule} | {stories:,} | {size:,} | {size / max(1, self.characters):.4%} |"
            for rule, (stories, size) in self.by_rule.items()
        ]
        head = ["| rule | stories | characters cut | of all |", "| --- | ---: | ---: | ---: |"]
        return "\n".join(head + rows)

    def add(self, text: str, cuts: list[Cut]) -> None:
        self.stories += 1
        self.characters += len(text)
        self.touched += bool(cuts)
        sizes = Counter({rule: 0 for rule, _ in cuts})
        for rule, cut in cuts:
            sizes[rule] += len(cut)
        for rule, size in sizes.items():
            stories, characters = self.by_rule[rule]
            self.by_rule[rule] = stories + 1, characters + size


def is_story(line: str) -> bool:
    return line.lstrip("\ufeff \t\r\n").startswith(BEGIN)


def parse_story(line: str) -> str:
    """One story as plain text, uncut: ``<sos> A <nl> B <eos>`` to ``A``, line break, ``B``.

    Raises:
        CurvekitError: no ``<sos>`` at its beginning, or more than one story.
    """
    found = list(_stories([line], "the story"))
    if len(found) != 1:
        raise CurvekitError(f"expected one story, {FORM}, and there are {len(found)}")
    return found[0][0]


def format_story(text: str) -> str:
    """Plain text, a title and paragraphs on lines of their own, as one line; undoes ``parse_story``.

    Raises:
        CurvekitError: the text holds one of the three tags.
    """
    for tag in (BEGIN, BREAK, END):
        if tag in text:
            raise CurvekitError(f"the story holds {tag}, which the format keeps for itself; take it out")
    return f"{BEGIN} {f' {BREAK} '.join(line.strip() for line in text.splitlines())} {END}"


def read_stories(lines: Iterable[str], report: StoryReport | None = None, source: str = "the text") -> Iterator[str]:
    """The stories of a file, ``source``, as plain texts without trailers, one at a time; ``report`` counts along.

    A story may run over several lines, and several may stand in one. A story that a following ``<sos>`` or the end
    of the file breaks off is kept. One that has nothing after its title, or a trailer alone, is left out.

    Raises:
        CurvekitError: text outside of a story, with its line.
    """
    report = StoryReport() if report is None else report
    for text, ended in _stories(lines, source):
        rest, cuts = cut_trailer(text)
        if not any(line.strip() for line in rest.split("\n")[1:]):
            report.trailers += bool(cuts)
            report.empty += not cuts
            continue
        report.add(text, cuts)
        report.unended += not ended
        yield rest


def cut_trailer(text: str) -> tuple[str, list[Cut]]:
    """A story without its trailer, and the sentences of the trailer, first to last; the title is never cut."""
    lines = text.split("\n")
    cuts: list[Cut] = []  # last to first
    kept, told = (len(lines), 0), 0  # the story ends before this place once the first `told` cuts are made
    for row in range(len(lines) - 1, 0, -1):
        named = list(_named(lines[row]))
        for place, sentence, rule in reversed(named):
            if rule is None:
                break
            if sentence:
                cuts.append(Cut(rule, sentence))
            if rule != "closing" or told:  # what leads over to a cut goes with it
                kept, told = (row, place), len(cuts)
        else:
            continue
        break
    if not told:
        return text, []
    row, place = kept
    rest = "\n".join([*lines[:row], lines[row][:place]]).rstrip()
    return rest, cuts[:told][::-1]


def _named(paragraph: str) -> Iterator[tuple[int, str, str | None]]:
    """The sentences of a paragraph: where each begins, its text, and its rule."""
    whole = _LINK.sub(lambda link: "x" * len(link[0]), paragraph)  # no sentence ends in the middle of a link
    begins = [0, *(match.end() for match in _SENTENCE_END.finditer(whole) if match.end() < len(whole))]
    after = False  # a call, in this paragraph
    for begin, end in zip(begins, [*begins[1:], len(paragraph)], strict=True):
        sentence = paragraph[begin:end].strip()
        rule = _rule(sentence, alone=len(begins) == 1)
        if rule is None and after and len(paragraph) < 2 * _LONGEST and _TO_THE_READER.search(sentence):
            rule = "closing"
        after = after or rule not in (None, "closing")
        yield begin, sentence, rule


def _rule(sentence: str, alone: bool) -> str | None:
    """The first rule that names a sentence; ``alone``: it is a paragraph of its own."""
    bare = _ADDRESS.sub("", _LINK.sub("", sentence))
    if len(bare) > _LONGEST:
        return None
    if _LINK.search(sentence):
        return "link"
    if _spoken(sentence):
        return None
    called = bool(_CALL.search(sentence))
    if _ADDRESS.search(sentence) and (called or len(re.findall(r"\w+", bare)) < 4):
        return "link"
    if _MENTION.search(sentence) and (called or len(re.findall(r"\w+", _MENTION.sub("", sentence))) < 3):
        return "subreddit"
    if _SUBSCRIBE.search(sentence):
        return "subscription"
    part = _PART.fullmatch(sentence)
    if part and (alone or part["tail"].strip(" *#_~>[](){}|:.!–—-")):
        return "part"
    if _PROMOTION.search(sentence) or (_PAGES.search(sentence) and called):
        return "promotion"
    return "closing" if _CLOSING.search(sentence) else None


def _spoken(sentence: str) -> bool:
    """Whether somebody in the story says it: it begins in a quotation, or one begins or ends in it."""
    begins = sentence.lstrip("*_")[:1] in tuple("\"“«„‘'")
    return begins or sentence.count('"') % 2 == 1 or sentence.count("“") != sentence.count("”")


def _stories(lines: Iterable[str], source: str) -> Iterator[tuple[str, bool]]:
    """Plain texts with whether each was ended, whatever the ends of the lines are."""
    story: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        for piece in _TAG.split(line):
            if piece in (BEGIN, END):
                if story is not None:
                    yield _plain(story), piece == END
                elif piece == END:
                    raise CurvekitError(f"{source} has {END} outside of a story in line {number}; expected {FORM}")
                story = [] if piece == BEGIN else None
            elif story is not None:
                story.append(piece)
            elif piece.strip("\ufeff \t\r\n"):
                raise CurvekitError(
                    f"{source} has text outside of a story in line {number}, {piece.strip()[:40]!r}; expected {FORM}"
                )
    if story is not None:
        yield _plain(story), False


def _plain(pieces: list[str]) -> str:
    whole = "".join(pieces).strip()
    if "\n" in whole or "\r" in whole:
        whole = _LINE_BREAK.sub(BREAK, whole)
    return "\n".join(line.strip() for line in whole.split(BREAK))
