"""WikiText's tokenised text becomes plain English typography, and no word is lost."""

import re

import pytest

from curvekit.text.typography import plain

ARTICLE = """
 = Robert <unk> =

 Robert <unk> is an English film , television and theatre actor . He had a guest @-@ starring role in " The Bill " .

 = = Career ( 2000 – 2005 ) = =

 It cost $ 1 @,@ 000 @.@ 50 ; he didn 't pay . The players ' own " Teddy 's Story " , he said : " No ! "
"""


def test_an_article_reads_as_english():
    assert plain(ARTICLE) == (
        "Robert <unk>\n"
        'Robert <unk> is an English film, television and theatre actor. He had a guest-starring role in "The Bill".\n'
        "Career (2000–2005)\n"
        'It cost $1,000.50; he didn\'t pay. The players\' own "Teddy\'s Story", he said: "No!"'
    )


@pytest.mark.parametrize(
    ("tokenised", "typeset"),
    [
        ("and / or", "and/or"),
        ("the ' anti-war ' concept", "the 'anti-war' concept"),
        ("Linnaeus ' concept", "Linnaeus' concept"),
        ("( 24 in ) , 5 % of", "(24 in), 5% of"),
        ('" a " and " b "', '"a" and "b"'),
        ('" an unclosed one', '"an unclosed one'),
        ("I do n't ; he 'd", "I don't; he'd"),
        ("wait ... what", "wait... what"),
    ],
)
def test_each_rule(tokenised, typeset):
    assert plain(tokenised) == typeset


def test_only_spaces_and_marks_of_joints_are_changed():
    """Every letter, digit and sign stays, in its order: what goes is white space, @ and the signs of headings."""
    bare = re.compile(r"[\s@=]+")
    assert bare.sub("", plain(ARTICLE)) == bare.sub("", ARTICLE)


def test_plain_prose_passes_unchanged():
    prose = "She said, \"It's 3.5 metres (or so).\"\nAnd so it was; the boys' hats – all of them – were wet."
    assert plain(prose) == prose
    assert plain(plain(ARTICLE)) == plain(ARTICLE)
