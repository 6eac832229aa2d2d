"""Loss by frequency: every token falls into the bin of its count, bins add up to the whole, and calibration is told."""

from collections import Counter

import numpy as np
import pytest

from curvekit.errors import CurvekitError
from curvekit.evaluation.frequency import FrequencyScore, by_bin, counts_of_words, word_counts
from curvekit.evaluation.metrics import TokenScores, score_documents
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train


@pytest.fixture(scope="module")
def run(tiny_base, tiny_corpus, tmp_path_factory):
    config = RunConfig(
        recipe="plain", base=str(tiny_base), corpus=str(tiny_corpus), block_size=32, batch_size=4, steps=4,
        eval_every=4, sample_prompts=0, learning_rate=1e-2,
    )  # fmt: skip
    return train(config, tmp_path_factory.mktemp("frequency") / "run", progress="none")


def test_the_bins_of_a_run_add_up_to_its_loss(run, tiny_corpus):
    found, score = run.frequency(), run.scores()
    assert found.nll.sum(1) == pytest.approx(score.nll) and (found.tokens.sum(1) == score.tokens).all()
    assert (found.correct.sum(1) == score.correct).all() and found.held.sum() == score.tokens.sum()
    rows = run.metrics["by_frequency"]
    assert sum(row["loss"] * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows) == pytest.approx(
        run.metrics["loss"]
    )
    counts = Counter(
        i for line in (tiny_corpus / "train.txt").read_text().splitlines() for i in run.tokenizer()(line)["input_ids"]
    )
    tested = [run.tokenizer()(line)["input_ids"] for line in (tiny_corpus / "test.txt").read_text().splitlines()]
    wanted = [
        sum(1 for ids in tested for i in ids if low <= counts[i] < high) for low, high in ((0, 1), (1, 10), (10, 100))
    ]
    assert found.tokens.sum(0)[:3].tolist() == wanted
    assert run.metrics["calibration_error"] == found.calibration_error


def test_confidence_is_the_highest_probability_and_the_windows_change_nothing(run):
    model, tokenizer, text = run.model(), run.tokenizer(), "Every weight lies between zero and one, and the sum."
    seen: dict[int, float] = {}
    for context, stride in ((32, 16), (8, 4)):
        score_documents(model, tokenizer, [text], context=context, stride=stride, on_tokens=lambda s: seen.update(
            {s.begin + i: c for i, c in enumerate(s.confidences)}
        ))  # fmt: skip
        if context == 32:
            import torch

            ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
            with torch.no_grad():
                best = model.eval()(ids).logits[0, :-1].softmax(-1).max(-1).values
            assert [seen[i] for i in range(len(best))] == pytest.approx(best.tolist(), abs=1e-5)
    assert len(seen) == len(tokenizer(text)["input_ids"])


def test_calibration_error_is_its_formula():
    rng = np.random.default_rng(0)
    confidence = rng.random(4000)
    sure = FrequencyScore(1)
    ids = np.zeros(4000, np.int64)
    sure.add(TokenScores(0, 0, ids, ids * 1.0, confidence, rng.random(4000) < confidence), ids)
    assert sure.calibration_error < 0.02
    too_sure = FrequencyScore(1)
    hits = rng.random(4000) < confidence / 2
    too_sure.add(TokenScores(0, 0, ids, ids * 1.0, confidence, hits), ids)
    where = np.minimum((confidence * 15).astype(int), 14)
    wanted = sum(abs(hits[where == b].sum() - confidence[where == b].sum()) for b in range(15)) / 4000
    assert too_sure.calibration_error == pytest.approx(wanted) and wanted > 0.2


def test_a_bin_is_compared_by_itself():
    rng, pair = np.random.default_rng(0), []
    for worse in (0.0, 0.5):
        score = FrequencyScore(20)
        for document in range(20):
            counts = rng.choice([0, 5, 50], 60)
            nll = np.where(counts == 5, 4 + worse, 2.0) + 0.01 * rng.random(60)
            score.add(TokenScores(document, 0, counts, nll, nll * 0, nll > 9), counts)
        pair.append(score)
    pair[1].tokens = pair[0].tokens  # the same documents
    with_gap = {label: difference for label, _, difference in by_bin(pair[1:], pair[:1], samples=500)}
    assert list(with_gap) == ["never", "1 to 9", "10 to 99"] and with_gap["1 to 9"].verdict == "worse"
    with pytest.raises(CurvekitError, match="differ"):
        by_bin([FrequencyScore(1, (1, 2))], [FrequencyScore(1)])


def test_what_is_saved_reads_back_and_what_is_not_one_is_named(run, tmp_path):
    found = run.frequency()
    again = FrequencyScore.from_dict(found.to_dict())
    assert (again.nll == found.nll).all() and again.labels() == found.labels()
    with pytest.raises(CurvekitError, match="held"):
        FrequencyScore.from_dict(found.to_dict() | {"held": [1]}, "x")


def test_the_pieces_of_a_rare_word_are_rare():
    counts = word_counts(["The sea, the SEA and a ship.", "İstanbul"])
    assert counts["the"] == 2 and counts["sea"] == 2
    text = "A sea serpent!"
    assert counts_of_words(text, [(0, 1), (1, 5), (5, 9), (9, 13), (13, 14)], counts).tolist() == [1, 2, 0, 0, -1]
