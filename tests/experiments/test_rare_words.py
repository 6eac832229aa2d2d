"""Losses for rare words compared: runs are made once, compared bin by bin, and the page says who pays."""

import json

import numpy as np
import pytest
from datasets import DatasetDict

from curvekit.errors import CurvekitError
from curvekit.evaluation.frequency import FrequencyScore
from curvekit.evaluation.results import BEGIN, END
from curvekit.experiments import rare_words
from curvekit.experiments.rare_words import EDGES, excerpt, run_all, scores_of
from curvekit.reports import rare_words as page
from curvekit.text.corpora import load_corpus


@pytest.fixture
def corpus(tiny_corpus):
    corpus = load_corpus(tiny_corpus)
    return corpus.map(lambda row: {"text": f"{row['text']}\n{row['text'][::-1]}\nshort"})


def test_an_excerpt_takes_paragraphs_in_turn(corpus, tmp_path):
    folder = excerpt(corpus, tmp_path / "excerpt", 1_000, 5, least=40)
    held_out = (folder / "test.txt").read_text().splitlines()
    assert len(held_out) == 5 and held_out == [text.split("\n")[0] for text in corpus["test"]["text"][:5]]
    train = (folder / "train.txt").read_text()
    assert 1_000 <= len(train) < 1_400 and "short" not in train
    with pytest.raises(CurvekitError, match="has no paragraph of 9999 characters"):
        excerpt(corpus, tmp_path / "none", 1_000, 5, least=9_999)


@pytest.fixture
def results(corpus, tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(rare_words, "STARTS", {"fine-tuned": {"steps": 2, "eval_every": 2}})
    folder = tmp_path / "results"
    folder.mkdir()
    small = {"block_size": 16, "batch_size": 2, "learning_rate": 1e-2}
    arms = [("plain", "cross_entropy"), ("plain", "inverse_frequency"), ("self-curve", "cross_entropy")]
    given = {"arms": arms, "starts": ["fine-tuned"], "characters": 3_000, "paragraphs": 8, "base": str(tiny_base)}
    rows = run_all(folder, corpus, [0, 1], **given, **small)
    return folder, rows, lambda other=corpus, **more: run_all(folder, other, [0, 1], **given, **(small | more))


def test_runs_are_made_once_and_make_a_page(results, corpus, monkeypatch):
    folder, rows, again = results
    assert len(rows) == 6 and all(row["perplexity"] > 1 for row in rows)
    own = scores_of(rows, "fine-tuned", "plain", "cross_entropy")
    assert len(own) == 2 and own[0].edges == EDGES and own[0].tokens.sum() > 0
    monkeypatch.setattr(rare_words, "run_job", None)
    assert len(again()) == 6
    with pytest.raises(CurvekitError, match="was measured with settings .*; choose another folder"):
        again(learning_rate=1e-3)
    with pytest.raises(CurvekitError, match="was measured with texts "):
        again(DatasetDict({split: corpus[split].select(range(1, len(corpus[split]))) for split in corpus}))
    (folder / "README.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    page.main([str(folder)])
    text = (folder / "README.md").read_text()
    assert text.startswith("before") and text.endswith("after\n") and "| inverse_frequency |" in text
    assert (folder / "figures" / "fine-tuned-calibration.svg").exists()
    (folder / "README.md").write_text("no marks")
    with pytest.raises(CurvekitError, match="has no lines"):
        page.main([str(folder)])


def row(loss, seed, rare, frequent):
    rng, score = np.random.default_rng(seed), FrequencyScore(30, EDGES)
    score.tokens[:, 0], score.tokens[:, 5] = 20, 80
    score.nll[:, 0], score.nll[:, 5] = 20 * rare + rng.random(30), 80 * frequent + rng.random(30)
    score.held[5], score.hits[5], score.confidence[5] = 1_000, 300, 400.0
    return {
        "start": "x", "recipe": "plain", "loss": loss, "seed": seed, "perplexity": 9.0, "calibration_error": 0.1,
        "frequency": score.to_dict(), "train_tokens": 1, "seconds": 1.0,
    }  # fmt: skip


def test_who_gains_and_who_pays_stands_in_the_table_and_unpaired_seeds_do_not(tmp_path):
    rows = [row("cross_entropy", seed, 9.0, 3.0) for seed in (0, 1, 2)]
    rows += [row("focal", seed, 8.5, 3.2) for seed in (0, 1, 2)] + [row("unlikelihood", 0, 9.0, 3.0)]
    told = page.table(rows, "x", samples=300)
    assert [line["trained with"] for line in told] == ["cross_entropy", "focal"]
    assert told[1]["rare"].startswith("-0.5") and told[1]["frequent"].startswith("+0.2")
    bins = page.by_frequency(rows, "x", samples=300)["focal"]
    assert [each["label"] for each in bins] == ["never", "256 to 1,023"] and bins[0]["high"] < 0 < bins[1]["low"]
    assert set(page.pictures(rows, "x", 300)) == {"x-calibration", "x-by-frequency"}
    with pytest.raises(CurvekitError, match="no plain one"):
        page.table(rows[3:], "x")
    (tmp_path / "results.json").write_text(json.dumps({"rows": [{"start": 3}]}))
    with pytest.raises(CurvekitError, match="start"):
        rare_words.load(tmp_path / "results.json")
