"""Stories: the format comes back as it went in, trailers are cut by name, and honest endings stay."""

from __future__ import annotations

import random
import re
import time

import pytest

from curvekit.errors import CurvekitError
from curvekit.text.stories import RULES, StoryReport, cut_trailer, format_story, parse_story, read_stories

COPIED = re.compile(r"<nl>.*?(\[.*?\]\(http[s]?://\S+\)|subscribe|/r/|PART \d+).*?<eos>")
STORY = "The River\nIt was low in summer.\nThe boats lay on the sand, and nobody came."


def kept(ending: str) -> str:
    return cut_trailer(f"{STORY}\n{ending}")[0].removeprefix(STORY).removeprefix("\n")


# The format


def test_a_story_becomes_plain_text_and_comes_back():
    line = "<sos> The River <nl> It was low. <nl>  <nl> “Why?” she said. <eos>"
    assert parse_story(line) == "The River\nIt was low.\n\n“Why?” she said."
    assert format_story(parse_story(line)) == line
    dice = random.Random(0)
    for _ in range(200):
        lines = ["".join(dice.choices("ab <>/é“”.!\U0001f30a", k=dice.randint(0, 9))).strip() for _ in range(5)]
        text = "\n".join(["Title", *lines, "End."])
        assert parse_story(format_story(text)) == text


def test_what_is_no_story_is_one_sentence():
    with pytest.raises(CurvekitError, match=r"the story holds <nl>, which the format keeps for itself"):
        format_story("A\nthe tag <nl> is a line break")
    with pytest.raises(CurvekitError, match=r"expected one story, <sos> title <nl> .*, and there are 2"):
        parse_story("<sos> A <nl> B <eos> <sos> C <nl> D <eos>")
    with pytest.raises(CurvekitError, match="text outside of a story"):
        parse_story("Once upon a time")
    with pytest.raises(CurvekitError, match="tales has <eos> outside of a story in line 2"):
        list(read_stories(["<sos> A <nl> B <eos>\n", "<eos>\n"], source="tales"))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r", "\n\n", "", " "])
def test_stories_are_told_apart_whatever_stands_between_them(ends):
    whole = ends.join(["\ufeff<sos> A <nl> a1 <nl> a2 <eos>", "<sos>B<nl>b1<eos>", "<sos> C <nl> c1 <eos>"]) + ends
    assert list(read_stories(whole.splitlines(keepends=True))) == ["A\na1\na2", "B\nb1", "C\nc1"]
    assert list(read_stories([whole])) == ["A\na1\na2", "B\nb1", "C\nc1"]


def test_a_story_may_run_over_several_lines():
    lines = ["<sos> A\n", "<nl> a1 <nl>\n", "a2\r\n", "\n", "a3 <eos>\n"]
    assert list(read_stories(lines)) == ["A\na1\na2\na3"]


def test_a_story_without_an_end_is_kept_and_an_empty_one_counted():
    report = StoryReport()
    lines = ["<sos> A <nl> a1\n", "<sos> B <nl> b1 <eos>\n", "<sos> <eos>\n", "<sos> C <nl> <eos>\n", "<sos> D <nl> d1"]
    assert list(read_stories(lines, report)) == ["A\na1", "B\nb1", "D\nd1"]
    assert (report.stories, report.empty, report.unended) == (3, 2, 2)
    assert str(report).endswith("2 without a paragraph left out; 2 without <eos> kept as they are")


def test_a_story_that_is_all_trailer_is_left_out_and_counted():
    report = StoryReport()
    assert list(read_stories(["<sos> A <nl> Please subscribe! <eos>\n", "<sos> B <nl> b1 <eos>\n"], report)) == [
        "B\nb1"
    ]
    assert (report.stories, report.empty, report.trailers) == (1, 0, 1)
    assert "1 that were all trailer left out" in str(report)


# What is cut


@pytest.mark.parametrize(("rule", "trailer"), [
    ("link", "[Part 2](https://www.example.org/r/x/2)"),
    ("link", "[Part 1](https://a.b/1) | [Part 3](https://a.b/3)"),
    ("link", "Prompt is [here! And more.](http://a.b/c)"),
    ("link", "Read the rest at https://example.org/story?id=1"),
    ("link", "https://example.org"),
    ("subreddit", "/r/mystories"),
    ("subreddit", "**r/mystories**"),
    ("subreddit", "If you liked this, come by /r/mystories for more."),
    ("subreddit", "More stories at r/mystories!"),
    ("subscription", "Please subscribe!"),
    ("subscription", "Don't forget to like and subscribe for more."),
    ("subscription", "If you enjoyed this, consider subscribing to my newsletter."),
    ("part", "PART 2"),
    ("part", "**Part 2 in the comments**"),
    ("part", "Part two coming soon!"),
    ("part", "(Continued in Part 3)"),
    ("part", "Part 1/4"),
    ("promotion", "Check out my other story \"The Dog\"."),
    ("promotion", "My novel is available on Amazon."),
    ("promotion", "Support me on Patreon!"),
    ("promotion", "Feedback is always welcome."),
])  # fmt: skip
def test_each_rule_cuts_its_trailers_and_nothing_before(rule, trailer):
    for text in (f"{STORY}\n{trailer}", f"{STORY}\n\n---\n\n{trailer}\n\n", f"{STORY}\nThanks for reading!\n{trailer}"):
        rest, cuts = cut_trailer(text)
        assert rest == STORY, text
        assert {cut.rule for cut in cuts} - {"closing"} == {rule}


@pytest.mark.parametrize("trailer", [
    "Thanks for reading! If you liked this, check out r/mystories. I post there every day.",
    "EDIT: Wow, thanks for the gold! PART 2 [here](http://a.b/c).",
    "* * *\nHope you enjoyed it.\n[Next](http://a.b/c)\nEdit: typos.",
])  # fmt: skip
def test_a_trailer_of_several_sentences_goes_as_a_whole(trailer):
    assert kept(trailer) == ""
    assert cut_trailer(f"{STORY} {trailer}")[0] == STORY  # in the last paragraph, too


@pytest.mark.parametrize("ending", [
    "Part 2 of the plan began at dawn.",
    "“Part two,” she said.",
    "He turned the page. Part 2.",
    "Part two of his life was over.",
    "He would subscribe to the Times, and be happy.",
    "“Subscribe to the fund, gentlemen!” cried the chairman.",
    "She asked us to come and subscribe our names.\nWe did.",
    "“Now come home. And subscribe to the Times.”",
    "He scrolled through /r/nosleep until dawn, and then came the knock.",
    "He read /r/nosleep. Then the light went out.",
    "On the wall stood http://example.com, and nobody knew why it was written there in chalk.",
    "“Thank you for reading to me,” said the old man.",
    "Thank you for reading this letter, my love.",
    "I hope you liked it there.",
    "If you liked this story, tell it to your children.",
    "To be continued.",
    "* * *",
    "The End",
    "P.S.: Burn this letter.",
    "Subscribe to our paper, the sign said. He walked on and never looked back.",
    "[He laughs.] (He goes.)",
])  # fmt: skip
def test_honest_endings_stay(ending):
    assert kept(ending) == ending


def test_only_the_end_is_read():
    text = f"{STORY}\nPART 2\n[a link](http://a.b/c)\nSubscribe to my channel!\nAnd so they lived."
    assert cut_trailer(text) == (text, [])
    assert cut_trailer(f"{text}\nSee /r/abc")[0] == text


def test_the_title_is_never_cut():
    assert cut_trailer("PART 2")[0] == "PART 2"
    assert cut_trailer("PART 2\n[link](http://a.b/c)")[0] == "PART 2"
    assert list(read_stories(["<sos> My Newsletter <nl> Subscribe! <eos>"])) == []


def test_the_widely_copied_expression_deletes_nearly_all_of_what_this_keeps():
    honest = "He said that all who lived there would subscribe to a lamp. <nl> " * 50
    trailer = "[PART 2](https://example.org/2)"
    line = f"<sos> The Lamp <nl> It was dark. <nl> {honest}Then it was lit. <nl> {trailer} <eos>"
    assert COPIED.sub("<eos>", line) == "<sos> The Lamp <eos>"
    (text,) = read_stories([line])
    assert format_story(text) == line.replace(f" <nl> {trailer}", "")


def test_the_report_counts_stories_and_characters_by_rule():
    report = StoryReport()
    endings = ["PART 2", "PART 3 <nl> Thanks for reading! /r/abc", "The end of it."]
    texts = list(read_stories((f"<sos> T <nl> It was. <nl> {ending} <eos>" for ending in endings), report))
    assert texts == ["T\nIt was."] * 2 + ["T\nIt was.\nThe end of it."]
    assert {rule: counts for rule, counts in report.by_rule.items() if counts[0]} == {
        "part": (2, 12), "closing": (1, 19), "subreddit": (1, 6)
    }  # fmt: skip
    assert "3 stories, the ends of 2 cut: " in str(report) and "part 2 (12 characters)" in str(report)
    rows = report.table().splitlines()
    assert len(rows) == 2 + len(RULES) and "| part | 2 | 12 |" in report.table()


def test_a_long_story_of_anything_is_read_in_no_time():
    for piece in (
        "[",
        "](",
        "[a](http://b.c) ",
        "Part 2. ",
        "subscribe ",
        "please ",
        "r/aa ",
        "\n",
        "a. ",
        "more if you ",
    ):
        began = time.process_time()
        list(read_stories([f"<sos> T <nl> {piece * 100_000} <eos>"]))
        assert time.process_time() - began < 5, piece
