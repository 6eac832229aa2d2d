"""Code is judged by its syntax and its names, and nothing that a model wrote is run."""

import sys

import numpy as np
import pytest

from curvekit.evaluation import code
from curvekit.evaluation.code import code_metrics, completions, identifiers, verdict
from curvekit.evaluation.metrics import score_documents

MODULE = "import os\n\n\ndef area(width, height):\n    return width * height\n\n\n" * 8


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x = 1\n", "parses"), ("def f(x):\n", "unfinished"), ("f(1,\n", "unfinished"), ('"""doc\n', "unfinished"),
        ("x = = 1\n", "wrong"), ("def f(:\n", "wrong"), ("if x:\ny\n", "wrong"), ("x\0", "wrong"),
        ("(" * 5000, "wrong"),
    ],
)  # fmt: skip
def test_a_text_parses_or_lacks_its_end_or_is_wrong(text, wanted):
    assert verdict(text) == wanted


def test_nothing_is_run(tmp_path):
    mark = tmp_path / "ran"
    assert verdict(f"open({str(mark)!r}, 'w')\nraise SystemExit\n") == "parses"
    assert not mark.exists()
    audited = []
    sys.addaudithook(lambda event, args: audited.append(event) if event == "exec" and code_seen(args) else None)
    verdict("x = 1\n")
    assert not audited


def code_seen(args):
    return getattr(args[0], "co_filename", "") == "<text>"


def test_a_name_is_known_after_its_first_place():
    found = identifiers("def area(width):\n    return width * len(area)\n")
    text = "def area(width):\n    return width * len(area)\n"
    assert [(text[a:b], known) for a, b, known in found] == [
        ("area", False), ("width", False), ("width", True), ("area", True)
    ]  # fmt: skip
    assert identifiers("x = (\n") == [(0, 1, False)]


def test_an_identifier_is_right_where_all_its_tokens_are(make, tiny_tokenizer):
    model = make("plain").eval()
    found = code_metrics(model, tiny_tokenizer, [MODULE], context=32, count=0)
    ranked = {}
    score_documents(model, tiny_tokenizer, [MODULE], context=32, on_tokens=lambda s: ranked.update(
        {s.begin + i: bool(hit) for i, hit in enumerate(s.hits)}
    ))  # fmt: skip
    offsets = tiny_tokenizer(MODULE, return_offsets_mapping=True)["offset_mapping"]
    right = [
        all(ranked[i] for i, (a, b) in enumerate(offsets) if b > begin and a < end)
        for begin, end, _ in identifiers(MODULE)
    ]
    assert found["identifier_accuracy"] == pytest.approx(np.mean(right)) and found["identifiers"] == len(right)
    assert found["parses"] is None and found["bits_per_byte"] > 0


def test_completions_are_judged_behind_their_beginnings(make, tiny_tokenizer, monkeypatch):
    written = ["    return 1\nx = = 2\nbroken", "    return 1\n", "no line", "    return 1\nf(\n"]
    monkeypatch.setattr(code, "generate", lambda model, tokenizer, prompts, **_: written[: len(prompts)])
    module = "".join(f"x{i} = {i}\n" for i in range(39)) + "def f():\n" + "    pass\n" * 9
    rows = completions(None, None, [module] * 4 + ["short\n"], count=9)
    assert [row["verdict"] for row in rows] == ["wrong", "parses", "unfinished", "unfinished"]
