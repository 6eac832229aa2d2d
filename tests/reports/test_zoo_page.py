"""The page of a zoo: its table with what may not be compared, picture, published claim, and the README's block."""

from __future__ import annotations

import json
import re

import pytest

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.reports import zoo as pages

EVIL = "<script>alert(1)</script>"


def row(name, bits=1.5, **changes):
    signature = {"tokenizer_hash": "a", "context": 512, "stride": 256, "dtype": "float32", "texts": "t"}
    signature |= {key: changes.pop(key) for key in list(changes) if key in signature}
    nll = [bits * 700 * 0.6931, bits * 500 * 0.70, bits * 800 * 0.69]
    counts = {"tokens": [200, 150, 230], "correct": [50, 30, 70], "words": [100] * 3, "bytes": [700, 500, 800]}
    score = {"nll": nll, **counts, "leaks": False, "signature": signature, "token_nll": []}
    written = {"signatures": {"bleu": "nrefs:1|tok:13a", "chrf": "nrefs:1"}, "prompts": 3}
    return {
        "name": name, "architecture": "GPT2LMHeadModel", "recipe": "plain", "kind": "causal", "given": "nothing",
        "leaks": False, "keeps_text": True, "parameters": 7_000_000, "perplexity": 30.0, "word_perplexity": 200.0,
        "bits_per_byte": bits, "token_accuracy": 0.3, "bleu": 2.5, "chrf": 20.0, "short": 0, "written": written,
        "prefill_ms": 20.0, "decode_ms": 5.0, "prefill_cpu_ms": 18.0, "decode_cpu_ms": 4.5, "busy": 0.0,
        "prefill_tokens": 128, "decode_tokens": 32, "threads": 2, "peak_memory_mb": 300.0, "dtype": "float32",
        "machine": "a processor", "seconds": {"opening": 1.0, "scoring": 9.0}, "score": score,
        "rest": score, "rest_bits_per_byte": bits,
    } | changes  # fmt: skip


def found(*rows):
    from curvekit.evaluation.zoo import differences

    settings = {"corpus": "wikitext-2", "split": "test", "words": 200, "context": 512, "repeats": 5, "prompt_words": 40,
                "continuation_words": 30}  # fmt: skip
    texts = {"documents": 3, "words": 300, "bytes": 2000, "sha256": "abc"}
    return {"settings": settings, "texts": texts, "rows": list(rows), "differences": differences(rows), "minutes": 1.0}


@pytest.fixture
def written(tmp_path):
    rows = [
        row("mini"),
        row("better", 1.2, busy=0.5),
        row("others-tokens", 1.4, tokenizer_hash="b"),
        row("seq2seq", 1.0, kind="seq2seq", given="the first 40 words"),
        {"name": "nowhere", "error": "unknown base 'nowhere'"},
        row(EVIL, 1.6, leaks=True),
    ]
    pages.write(found(*rows), tmp_path / "zoo", "curvekit zoo mini better")
    return tmp_path / "zoo"


def test_every_cell_that_may_not_be_compared_says_so(written):
    lines = {line["model"]: line for line in pages.cells(pages.load(written))}
    assert lines["mini"]["verdict"] == "compared with"
    assert re.fullmatch(r"-0\.3\d+ \[-0\.\d+, -0\.\d+\]", lines["better"][pages.DIFFERENCE])
    assert lines["better"]["verdict"] == "better" and lines["better"]["ms/token"] == "4.50 (processor time)"
    assert lines["others-tokens"]["perplexity"] == "30.00 (other tokens)"
    assert lines["others-tokens"]["bits/byte"] == "1.4000" and lines["others-tokens"]["verdict"] == "better"
    assert lines["seq2seq"]["bits/byte"] == "1.0000 (given the first 40 words)"
    assert lines["seq2seq"]["bits/byte of the rest"] == "1.0000"
    assert lines["seq2seq"][pages.DIFFERENCE].startswith("-0.5") and lines["seq2seq"]["verdict"] == "better (the rest)"
    assert lines["nowhere"]["verdict"] == "unknown base 'nowhere'"
    assert lines[EVIL]["verdict"] == "sees the words it predicts"


def test_the_page_opens_offline_escapes_and_shows_the_claim_with_what_compares(written):
    page = (written / "index.html").read_text()
    assert "<script" not in page and not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "&lt;script&gt;" in page
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", page))
    for each in (page, (written / "README.md").read_text()):
        for claimed in ("29.41", "24.57", "22.89", "0.42", "0.51", "95"):
            assert claimed in each
        assert "perplexity compares with neither" in each
        assert "processor" in each and "curvekit zoo mini better" in each
    assert {path.name for path in (written / "figures").iterdir()} == {"quality.svg", "quality.png"}


def test_the_readme_shows_its_table(written, tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- zoo:begin -->\nold\n<!-- zoo:end -->\nafter\n")
    assert main(["zoo", "--out", str(written), "--readme", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| better |" in text and "curvekit zoo mini better" in text
    assert main(["zoo", "mini", "--out", str(written), "--readme", str(page)]) == 2
    assert "leave the models out" in capsys.readouterr().err


def test_a_zoo_of_nothing_is_a_page_too(tmp_path):
    pages.write(found({"name": "nowhere", "error": "unknown base"}), tmp_path / "zoo", "curvekit zoo nowhere")
    assert "unknown base" in (tmp_path / "zoo" / "index.html").read_text()
    assert not (tmp_path / "zoo" / "figures").exists()


def test_anothers_files_and_broken_ones_are_refused(written, tmp_path, capsys):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("mine")
    assert main(["zoo", "mini", "--out", str(tmp_path / "own")]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert main(["zoo"]) == 2
    assert "name the models of the zoo" in capsys.readouterr().err
    saved = json.loads((written / "results.json").read_text())
    saved["rows"][0]["busy"] = "no"
    (written / "results.json").write_text(json.dumps(saved))
    with pytest.raises(CurvekitError, match=r"results.json: it has no field 'rows"):
        pages.load(written)


def test_the_command_measures_apart_with_a_plugin_and_says_what_it_cannot_have(
    tiny_base, tiny_corpus, tmp_path, capsys
):
    plugin = tmp_path / "mine.py"
    plugin.write_text("from curvekit.variants import register_recipe\nregister_recipe('mine', {'source': 'self'})\n")
    small = "--documents 4 --words 14 --context 32 --stride 16 --prompts 1 --prompt-words 8 --continuation-words 4"
    small = [*small.split(), *["--prefill", "12", "--decode", "2", "--repeats", "1", "--threads", "1"]]
    command = ["zoo", f"{tiny_base}:mine", "nowhere", "--corpus", str(tiny_corpus), "--out", str(tmp_path / "zoo")]
    assert main([*command, *small, "--plugin", str(plugin)]) == 0
    out, err = capsys.readouterr()
    assert "unknown base 'nowhere'" in out and "[2/2] nowhere" in err
    (one, none) = pages.load(tmp_path / "zoo")["rows"]
    assert one["recipe"] == "mine" and one["threads"] == 1 and set(none) == {"name", "error"}
    assert one["peak_memory_mb"] is None or one["peak_memory_mb"] > 1
    assert one["seconds"]["starting"] > 0
    assert not list((tmp_path / "zoo" / "rows").glob(".*")), "nothing is left of the order"


def test_how_the_runs_among_the_models_were_made_stands_below(tmp_path):
    how = {"tuned": f"`curvekit train --recipe {EVIL}`"}
    pages.write({**found(row("tuned")), "trainings": how}, tmp_path / "zoo", "curvekit zoo tuned")
    assert f"tuned: {how['tuned']}" in (tmp_path / "zoo" / "README.md").read_text()
    assert EVIL not in (tmp_path / "zoo" / "index.html").read_text()
    assert pages.load(tmp_path / "zoo")["trainings"] == how
