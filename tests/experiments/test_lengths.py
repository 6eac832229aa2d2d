"""Longer windows over the same tokens: each is scored once, paired with the first model's, and makes a page."""

from __future__ import annotations

import pytest

from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.experiments import lengths
from curvekit.experiments.lengths import load, run_all, scores_of
from curvekit.figures.drawing import is_figure
from curvekit.reports.lengths import apart, contrasts, main, rows_of, told

CONTEXTS = (4, 16)


@pytest.fixture(scope="module")
def measured(make, tiny_tokenizer, tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    models = []
    for name, recipe, seed in (("softmax", "gpt2", 0), ("softmax", "gpt2", 1), ("ours", "softemax", 0)):
        path = folder / "models" / f"{name}-{seed}"
        make(recipe).save_pretrained(path)
        tiny_tokenizer.save_pretrained(path)
        models.append((name, str(path)))
    run_all(folder, models, str(tiny_corpus), contexts=CONTEXTS, documents=2, characters=120, trained=8)
    return folder, models, str(tiny_corpus)


def test_the_same_tokens_are_scored_once_in_every_window(measured, make, tiny_tokenizer, monkeypatch):
    folder, models, corpus = measured
    scores = scores_of(load(folder / "results.json"))
    assert {name: {c: len(seeds) for c, seeds in each.items()} for name, each in scores.items()} == {
        "softmax": {4: 2, 16: 2},
        "ours": {4: 1, 16: 1},
    }
    short, long = (scores["ours"][context][0] for context in CONTEXTS)
    assert short.tokens.tolist() == long.tokens.tolist() and min(long.tokens) > max(CONTEXTS)
    assert short.nll.tolist() != long.nll.tolist()
    texts = [text[:120] for text in lengths.load_corpus(corpus)["test"]["text"]]
    texts = [text for text in texts if len(tiny_tokenizer(text)["input_ids"]) > 16][:2]
    own = score_documents(make("softemax"), tiny_tokenizer, texts, context=16)
    assert long.nll.tolist() == pytest.approx(own.nll.tolist(), rel=1e-4)
    monkeypatch.setattr(lengths, "score_documents", lambda *_, **__: pytest.fail("a window was scored again"))
    run_all(folder, models, corpus, contexts=CONTEXTS, documents=2, characters=120, trained=8)
    with pytest.raises(CurvekitError, match="was measured with longest 16, not 8"):
        run_all(folder, models, corpus, contexts=(4, 8), documents=2, characters=120, trained=8)


def test_the_page_says_what_the_results_say(measured):
    folder, *_ = measured
    results = load(folder / "results.json")
    assert [row["seeds"] for row in rows_of(results)] == ["2", "1"]
    (pairs,) = apart(results, samples=100).values()
    first, own = (scores_of(results)[name] for name in ("softmax", "ours"))
    assert {c: pair.difference for c, pair in pairs.items()} == pytest.approx(
        {c: own[c][0].loss - first[c][0].loss for c in CONTEXTS}
    )
    assert [row["nats a token"] for row in contrasts(results, samples=100)] == ["ours − softmax"]
    main([str(folder)])
    assert told(results) in (folder / "README.md").read_text("utf-8") and is_figure(folder / "figures" / "lengths.svg")


def test_short_documents_and_other_texts_are_refused(measured, tmp_path):
    folder, models, corpus = measured
    with pytest.raises(CurvekitError, match="have more than 16 tokens in their first 5 characters, not 2"):
        run_all(tmp_path, models, corpus, contexts=CONTEXTS, documents=2, characters=5)
    with pytest.raises(CurvekitError, match="measured with documents 2, not 1"):
        run_all(folder, models, corpus, contexts=CONTEXTS, documents=1, characters=120, trained=8)
