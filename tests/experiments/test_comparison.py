"""Experiments keep their promises: intervals that hold, comparisons that are fair, runs that are never done twice."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
import types

import numpy as np
import pytest

from curvekit.errors import CurvekitError
from curvekit.evaluation import significance
from curvekit.evaluation.metrics import LanguageModelScore, score_documents
from curvekit.evaluation.results import latex, markdown_table
from curvekit.experiments.comparison import (
    _command,
    compare,
    holm,
    load_comparison,
    paired_bootstrap,
    run_experiment,
)
from curvekit.files import read_json, write_json
from curvekit.training.runs import load_run
from curvekit.training.settings import RunConfig

TOKENS = np.random.default_rng(0).integers(100, 1000, 60)
SIGNATURE = {
    "model": "toy", "recipe": "toy", "corpus": "toy", "revision": "r1", "texts": "t1", "tokenizer_hash": "h1",
    "context": 64, "stride": 32, "dtype": "float32",
}  # fmt: skip


def score(nll, tokens=TOKENS, leaks=False, **signature) -> LanguageModelScore:
    return LanguageModelScore(
        nll, tokens, tokens // 3, tokens, 4 * tokens, leaks=leaks, signature=SIGNATURE | signature | {"leaks": leaks}
    )


def simulated(draw, effect, seeds, documents=0.1, between=0.0, noise=0.0) -> tuple[list, list]:
    """Scores of two recipes whose true difference is ``effect`` nats a token; the rest are standard deviations: of
    the effect over documents, over seeds, and of both together. Documents differ among themselves by far more."""
    hard = 5 + draw.standard_normal(len(TOKENS))
    varies = documents * draw.standard_normal(len(TOKENS))
    a, b = [], []
    for _ in range(seeds):
        shift = between * draw.standard_normal() + noise * draw.standard_normal(len(TOKENS))
        a.append(score((hard + effect + varies + shift) * TOKENS))
        b.append(score(hard * TOKENS))
    return a, b


# The bootstrap


@pytest.mark.parametrize(
    ("seeds", "deviations"),
    [
        (1, {"documents": 0.1}),
        (3, {"documents": 0.1}),
        (2, {"documents": 0.01, "between": 0.02, "noise": 0.01}),
        (3, {"documents": 0.01, "between": 0.02, "noise": 0.01}),
        (5, {"documents": 0.1, "between": 0.012, "noise": 0.05}),
    ],
)
def test_a_95_percent_interval_holds_the_truth_95_percent_of_the_time(seeds, deviations):
    draw = np.random.default_rng(1)
    found = [paired_bootstrap(*simulated(draw, 0.01, seeds, **deviations), samples=400, seed=i) for i in range(200)]
    held = np.mean([result.low <= 0.01 <= result.high for result in found])
    assert 0.90 <= held <= 0.995, f"held {held:.1%}"


def test_pitfall_three_seeds_resampled_as_they_are_give_too_narrow_an_interval():
    """The reason for widening: the plain percentile interval over seeds, as the formula reads."""
    draw, held = np.random.default_rng(2), 0
    for _ in range(200):
        a, b = simulated(draw, 0.01, 3, documents=0.01, between=0.02)
        means = np.array([(x.nll - y.nll).sum() / TOKENS.sum() for x, y in zip(a, b, strict=True)])
        low, high = np.quantile(means[draw.integers(0, 3, (400, 3))].mean(1), [0.025, 0.975])
        held += low <= 0.01 <= high
    assert held / 200 < 0.85, f"held {held / 200:.1%}"


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_effect_is_rarely_called_significant(seeds):
    draw = np.random.default_rng(3)
    found = [
        paired_bootstrap(*simulated(draw, 0.0, seeds, between=0.02 * (seeds > 1)), samples=400) for _ in range(200)
    ]
    assert np.mean([result.significant for result in found]) <= 0.10
    assert np.mean([result.p < 0.05 for result in found]) <= 0.10


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_small_p_values_are_as_rare_as_they_say(seeds):
    """What Holm's correction rests on: with no effect, and seeds the main source of noise, p < .01 once in 100."""
    draw = np.random.default_rng(8)
    found = [
        paired_bootstrap(*simulated(draw, 0.0, seeds, documents=0.01, between=0.02), samples=400, seed=i)
        for i in range(400)
    ]
    p = np.array([result.p for result in found])
    assert (p < 0.01).mean() <= 0.025 and 0.1 < np.median(p) < 0.9
    assert all(result.significant == (result.p < 0.05) for result in found if abs(result.p - 0.05) > 0.002)


def test_a_known_effect_is_found_and_measured():
    found = paired_bootstrap(*simulated(np.random.default_rng(4), -0.1, 3, between=0.005))
    assert found.significant and found.verdict == "better" and found.p < 0.01
    assert found.low < -0.1 < found.high
    assert found.relative_perplexity == pytest.approx(math.exp(found.difference) - 1)
    assert len(found.per_seed) == 3 and found.documents == 60


def test_the_difference_is_total_loss_over_total_tokens_by_hand():
    """(3 - 2) + (40 - 44) nats over 1 + 9 tokens: -0.3, where the mean of document means would be +0.28."""
    tokens = np.array([1, 9])
    a, b = score(np.array([3.0, 40.0]), tokens), score(np.array([2.0, 44.0]), tokens)
    assert paired_bootstrap(a, b, samples=50).difference == pytest.approx(-0.3)
    assert paired_bootstrap(a, b, samples=50, unit="byte").difference == pytest.approx(-3 / 40)


def test_a_difference_over_seeds_weighs_each_seed_alike():
    a = [score(TOKENS * 2.0), score(TOKENS * 2.4)]
    b = [score(TOKENS * 2.1), score(TOKENS * 2.2)]
    found = paired_bootstrap(a, b, samples=50)
    assert found.per_seed == pytest.approx((-0.1, 0.2)) and found.difference == pytest.approx(0.05)


def test_the_vectorised_bootstrap_equals_the_loop_it_stands_for():
    """The same draws, resampled document by document: no widening with one seed."""
    a, b = simulated(np.random.default_rng(5), -0.02, 1)
    found = paired_bootstrap(a, b, samples=300, seed=7)
    draw, statistics = np.random.default_rng(7), []
    for counts in draw.multinomial(60, np.full(60, 1 / 60), 300):
        drawn = np.repeat(np.arange(60), counts)
        statistics.append((a[0].nll[drawn] - b[0].nll[drawn]).sum() / TOKENS[drawn].sum())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(statistics, [0.025, 0.975])))


def test_pairing_gives_a_far_narrower_interval_than_resampling_each_model_apart():
    a, b = simulated(np.random.default_rng(6), -0.05, 1)
    found = paired_bootstrap(a, b)
    draw = np.random.default_rng(0)
    one, two = (draw.integers(0, 60, (4000, 60)) for _ in "ab")
    apart = a[0].nll[one].sum(1) / TOKENS[one].sum(1) - b[0].nll[two].sum(1) / TOKENS[two].sum(1)
    low, high = np.quantile(apart, [0.025, 0.975])
    assert found.high - found.low < 0.3 * (high - low)
    assert found.significant and low < 0 < high


def test_swapping_the_models_mirrors_the_result():
    a, b = simulated(np.random.default_rng(7), -0.03, 3, between=0.01)
    one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p))


def test_a_model_does_not_differ_from_itself():
    a, _ = simulated(np.random.default_rng(8), 0.0, 2)
    found = paired_bootstrap(a, a)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert found.verdict == "no significant difference"


def test_one_document_under_one_seed_proves_nothing():
    found = paired_bootstrap(*(score(np.array([x]), np.array([10])) for x in (1.0, 50.0)), samples=50)
    assert found.verdict == "not tested: one document, one seed" and not found.significant


def test_a_diverged_model_is_called_diverged_not_better():
    a, b = simulated(np.random.default_rng(10), -0.1, 2)
    a[1].nll[3] = math.nan
    found = paired_bootstrap(a, b, samples=50)
    assert found.verdict == "diverged: no finite loss" and not found.significant and math.isnan(found.p)
    a[1].nll[3] = math.inf
    found = paired_bootstrap(a, b, samples=50)
    assert found.verdict == "diverged: no finite loss" and math.isnan(found.low)


@pytest.mark.parametrize("level", [0.0499, 0.04999999, 0.05, 0.0500001, 0.0501])
def test_p_is_on_the_side_of_five_percent_on_which_the_interval_is(level):
    p = significance._smallest_level(lambda tried: tried >= level, 1e-4)
    assert (p <= 0.05) == (level <= 0.05) and p == pytest.approx(level, rel=0.02)


def test_documents_without_tokens_do_not_matter():
    a, b = simulated(np.random.default_rng(11), -0.02, 2)
    empty = [score(np.append(x.nll, 0), np.append(TOKENS, 0)) for x in (*a, *b)]
    assert paired_bootstrap(empty[:2], empty[2:], samples=200) == paired_bootstrap(a, b, samples=200)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"context": 128}, r"context \(64 against 128\)"),
        ({"stride": 16}, r"stride \(32 against 16\)"),
        ({"tokenizer_hash": "h2"}, r"tokenizer_hash \(h1 against h2\).*unit='byte'"),
        ({"corpus": "other"}, r"corpus \(toy against other\)"),
        ({"revision": "r2"}, r"revision \(r1 against r2\)"),
        ({"texts": "t2"}, r"texts \(t1 against t2\)"),
        ({"dtype": "bfloat16"}, r"dtype \(float32 against bfloat16\)"),
        ({"context": 128, "stride": 64}, r"context .* stride"),
    ],
)
def test_scores_measured_differently_are_refused_by_name(changes, named):
    with pytest.raises(CurvekitError, match=named):
        paired_bootstrap(score(TOKENS * 2.0), score(TOKENS * 2.0, **changes))


def test_unpaired_scores_are_refused():
    a, b = simulated(np.random.default_rng(12), 0.0, 3)
    with pytest.raises(CurvekitError, match="3 seeds cannot be paired with 2"):
        paired_bootstrap(a, b[:2])
    with pytest.raises(CurvekitError, match="0 seeds"):
        paired_bootstrap([], [])
    with pytest.raises(CurvekitError, match="differ in documents"):
        paired_bootstrap(a[0], score(a[0].nll[:-1], TOKENS[:-1]))
    with pytest.raises(CurvekitError, match="differ in documents"):
        paired_bootstrap(a[0], score(a[0].nll, TOKENS[::-1]))
    with pytest.raises(CurvekitError, match="did you mean 'byte'"):
        paired_bootstrap(a, b, unit="bytes")


def test_tokenizers_compare_by_the_byte():
    a = score(TOKENS * 2.0)
    b = LanguageModelScore(
        TOKENS * 2.2, TOKENS * 2, TOKENS, TOKENS, 4 * TOKENS, signature=SIGNATURE | {"tokenizer_hash": "h2"}
    )
    assert paired_bootstrap(a, b, samples=50, unit="byte").difference == pytest.approx(-0.2 / 4)


def test_holm_is_the_published_procedure():
    """Origin: R's documentation of p.adjust, method "holm": 3 * 0.01, max(that, 2 * 0.02), max(that, 0.03)."""
    assert holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


# Experiments

EFFECTS = {
    "gpt2": 0.0, "curve": -0.1, "softemax": 0.0, "curve+softemax": 0.08, "encoder": -0.1, "self-curve": -0.02,
    "published": -2.0,
}  # fmt: skip


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """A ``train`` that trains nothing and writes what a run leaves; the list holds the runs that it was asked for."""
    asked: list[str] = []

    def train(config, folder, *, progress="auto"):
        asked.append(folder.name)
        draw = np.random.default_rng([config.seed, *config.recipe.encode()])
        hard = 5 + np.random.default_rng(config.seed).standard_normal(len(TOKENS))
        loss = hard + EFFECTS[config.recipe] + 0.03 * draw.standard_normal(len(TOKENS))
        leaks = config.recipe == "published" or (config.context == "bidirectional" and config.recipe != "gpt2")
        result = score(loss * TOKENS, leaks=leaks, recipe=config.recipe, corpus=config.corpus)
        write_json(folder / "config.json", config.to_dict())
        write_json(folder / "corpus.json", {"train": "r1"})
        write_json(folder / "scores-test.json", result.to_dict())
        write_json(
            folder / "metrics.json",
            {
                "recipe": config.recipe, "seed": config.seed, "fingerprint": config.fingerprint(),
                "perplexity": result.perplexity, "bleu": 3.0 + config.seed, "leaks": leaks, "base_is_random": True,
                "parameters": 3_400_000, "trainable_parameters": 3_300_000, "tokens_per_second": 1234.5,
            },
        )  # fmt: skip
        return load_run(folder)

    monkeypatch.setitem(sys.modules, "curvekit.training.trainer", types.SimpleNamespace(train=train))
    return asked


CONFIG = RunConfig(steps=7, model={"degree": 3})


def test_an_experiment_trains_every_recipe_under_every_seed_and_compares_them(trained, tmp_path):
    lines: list[str] = []
    comparison = run_experiment(CONFIG, ["gpt2", "curve", "softemax"], [0, 1, 2], tmp_path, progress=lines.append)
    assert trained[:3] == ["gpt2-seed0", "curve-seed0", "softemax-seed0"] and len(trained) == 9
    assert lines[3] == "run 4 of 9: gpt2, seed 1"
    run = load_run(tmp_path / "runs" / "curve-seed2").config
    assert (run.recipe, run.seed, run.steps, run.model) == ("curve", 2, 7, {"degree": 3})
    verdicts = {row["recipe"]: row["verdict"] for row in comparison.rows}
    assert verdicts == {"gpt2": "baseline", "curve": "better", "softemax": "no significant difference"}
    curve, base = comparison.row("curve"), comparison.row("gpt2")
    perplexities = [load_run(place).scores("test").perplexity for place in comparison.run_folders("curve")]
    assert curve["perplexities"] == pytest.approx(perplexities)
    assert curve["perplexity"] == pytest.approx(np.mean(perplexities))
    assert curve["perplexity_sd"] == pytest.approx(np.std(perplexities, ddof=1))
    assert (curve["bleu"], curve["bleu_sd"], curve["seeds"]) == (4, 1, 3)
    assert curve["difference"] == pytest.approx(-0.1, abs=0.02) and base["difference"] is None
    assert comparison.documents == 60 and comparison.differing == [] and comparison.settings["steps"] == 7


def test_finished_runs_are_kept_and_unfinished_ones_go_on(trained, tmp_path):
    first = run_experiment(CONFIG, ["gpt2", "curve"], [0, 1], tmp_path, samples=100)
    (tmp_path / "runs" / "curve-seed1" / "metrics.json").unlink()  # as a kill would leave it
    trained.clear()
    lines: list[str] = []
    again = run_experiment(CONFIG, ["gpt2", "curve"], [0, 1], tmp_path, samples=100, progress=lines.append)
    assert trained == ["curve-seed1"]
    assert lines[0].endswith("finished before") and lines[3] == "run 4 of 4: curve, seed 1"
    assert again == first


def test_a_run_folder_of_another_configuration_is_refused_before_anything_is_trained(trained, tmp_path):
    run_experiment(CONFIG, ["gpt2", "curve"], [0], tmp_path, samples=100)
    trained.clear()
    before = (tmp_path / "results.md").read_text(encoding="utf-8")
    with pytest.raises(CurvekitError, match=r"seed0 holds another run: its steps is 7, not 8; choose another folder"):
        run_experiment(
            RunConfig(steps=8, eval_every=1, model={"degree": 3}), ["softemax", "curve", "gpt2"], [0], tmp_path
        )
    assert trained == [] and (tmp_path / "results.md").read_text(encoding="utf-8") == before


def test_what_changes_no_result_does_not_make_another_run(trained, tmp_path):
    run_experiment(CONFIG, ["gpt2", "curve"], [0], tmp_path, samples=100)
    trained.clear()
    run_experiment(RunConfig(steps=7, model={"degree": 3}, save_every=9), ["gpt2", "curve"], [0], tmp_path, samples=100)
    assert trained == []


def test_a_leaking_recipe_is_marked_and_never_ranked(trained, tmp_path):
    comparison = run_experiment(CONFIG, ["gpt2", "published", "softemax"], [0, 1], tmp_path, samples=100)
    row = comparison.row("published")
    assert row["leaks"] is True and row["verdict"] == "leaks: not comparable"
    assert row["difference"] is row["p"] is row["p_holm"] is None
    assert "1 comparison was made" in comparison.summary()  # softemax only
    assert "published sees the tokens it predicts" in comparison.summary()
    line = next(line for line in comparison.to_markdown().splitlines() if line.startswith("| published"))
    assert "| yes |" in line and "leaks: not comparable" in line and "n/a" in line
    with pytest.raises(CurvekitError, match="'published' leaks"):
        comparison.between("published", "gpt2")
    cheating = RunConfig(context="bidirectional")
    both = run_experiment(cheating, ["gpt2", "curve", "encoder"], [0], tmp_path / "cheating", samples=100)
    assert both.contrasts == [] and {row["p"] for row in both.rows} == {None}
    trained.clear()
    with pytest.raises(CurvekitError, match="baseline 'published' leaks"):
        run_experiment(CONFIG, ["published", "gpt2"], [0], tmp_path / "leak", baseline="published", samples=100)
    assert trained == []


def test_the_baseline_s_own_contrasts_are_not_counted_twice(trained, tmp_path):
    comparison = run_experiment(CONFIG, ["curve", "encoder"], [0, 1], tmp_path, baseline="curve", samples=100)
    assert comparison.contrasts == [] and "1 comparison was made" in comparison.summary()


def test_runs_that_learned_from_another_text_or_in_another_precision_are_said_to(trained, tmp_path):
    comparison = run_experiment(CONFIG, ["gpt2", "curve"], [0], tmp_path, samples=100)
    assert comparison.differing == []
    run = tmp_path / "runs" / "curve-seed0"
    write_json(run / "corpus.json", {"train": "r2"})
    write_json(run / "metrics.json", read_json(run / "metrics.json") | {"precision": "bf16"})
    comparison = run_experiment(CONFIG, ["gpt2", "curve"], [0], tmp_path, samples=100)
    assert comparison.differing == ["training text", "precision"]
    assert "differ in more than the recipe: training text, precision" in comparison.summary()


def test_ablations_answer_whether_it_is_the_curve(trained, tmp_path):
    comparison = run_experiment(CONFIG, ["gpt2", "curve", "encoder", "self-curve"], [0, 1, 2], tmp_path)
    found = {contrast["recipe"]: contrast["verdict"] for contrast in comparison.contrasts}
    assert found == {"curve against encoder": "no significant difference", "curve against self-curve": "better"}
    assert "5 comparisons were made" in comparison.summary()
    contrast = next(x for x in comparison.contrasts if x["b"] == "self-curve")
    direct = comparison.between("curve", "self-curve")
    assert (contrast["difference"], contrast["low"], contrast["p"]) == (direct.difference, direct.low, direct.p)
    raw = [x["p"] for x in (*comparison.rows[1:], *comparison.contrasts)]
    assert [x["p_holm"] for x in (*comparison.rows[1:], *comparison.contrasts)] == pytest.approx(holm(raw))


def test_the_summary_says_plainly_what_was_found(trained, tmp_path):
    def said(recipes, seeds, name):
        return run_experiment(CONFIG, recipes, seeds, tmp_path / name, samples=500).summary()

    good = said(["gpt2", "curve", "softemax"], [0, 1, 2], "good")
    assert re.search(r"curve is better than gpt2: -0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\] nats a token, perplexity -", good)
    assert "softemax does not differ significantly from gpt2" in good and "result." not in good
    null = said(["gpt2", "softemax"], [0, 1, 2], "null")
    assert "No recipe is better than gpt2: a null result." in null
    negative = said(["gpt2", "curve+softemax"], [0, 1, 2], "negative")
    assert "curve+softemax is worse than gpt2" in negative and "a negative result" in negative
    one = said(["gpt2", "curve"], [0], "one")
    assert "Seeds were not resampled" in one and "60 test documents, 1 seed)" in one
    assert "trained from scratch, not fine-tuned" in one


def test_a_significance_that_the_number_of_tests_explains_is_said(trained, tmp_path):
    comparison = run_experiment(CONFIG, ["gpt2", "curve", "softemax"], [0, 1], tmp_path, samples=100)
    comparison.row("curve").update(low=-0.2, high=-0.01, p=0.04, p_holm=0.08, verdict="better")
    assert "Corrected for their number (Holm), not significant: curve." in comparison.summary()


def test_the_files_hold_what_the_comparison_holds(trained, tmp_path):
    comparison = run_experiment(CONFIG, ["gpt2", "curve", "published", "encoder"], [0, 1], tmp_path, samples=100)
    assert load_comparison(tmp_path) == comparison
    assert load_comparison(tmp_path).run_folders("curve")[1].samefile(tmp_path / "runs" / "curve-seed1")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["rows"] == comparison.rows and results["summary"] == comparison.summary()
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert table == comparison.to_markdown()
    columns = {line.count("|") for line in table.splitlines() if line.startswith("|") and "against" not in line}
    assert 14 in columns  # 13 columns
    head = table.splitlines()[0]
    for column in ("recipe", "leaks", "perplexity", "bits/byte", "token accuracy", "BLEU", "Δ nats/token", "verdict"):
        assert column in head
    assert re.search(
        r"\| curve \| no \| [\d.]+ ± [\d.]+ \|.*\| -0\.1\d{3} \[-.*\| better \| 3,300,000 \| 1,23\d \| 2 \|", table
    )
    assert "Signature: `corpus:pydocs|revision:r1|texts:t1|" in table and "context:64|stride:32" in table
    assert "Command: `run_experiment(RunConfig(" in table and "100 samples" in table


def test_the_command_makes_the_same_call_again(trained, tmp_path):
    comparison = run_experiment(CONFIG, ["gpt2", "curve"], [0, 1], tmp_path / "a b", samples=100)
    call = ast.parse(comparison.command, mode="eval").body
    assert eval(ast.unparse(call.args[0]), {"RunConfig": RunConfig}) == CONFIG
    assert [ast.literal_eval(x) for x in call.args[1:]] == [["gpt2", "curve"], [0, 1], str(tmp_path / "a b"), "gpt2"]
    given = run_experiment(CONFIG, ["gpt2", "curve"], [0, 1], tmp_path / "a b", samples=100, command="make report")
    assert "Command: `make report`" in given.to_markdown()


@pytest.mark.parametrize(
    "settings",
    [{"base": "gpt2", "steps": 80, "block_size": 256, "accumulate": 1}, {"scratch": True, "added_rate": 8.0}],
    ids=str,
)
def test_the_command_names_what_this_base_would_not_choose(settings, tmp_path):
    wanted = RunConfig(**settings)
    call = ast.parse(_command(wanted, ["gpt2"], [0], tmp_path, "gpt2"), mode="eval").body
    assert eval(ast.unparse(call.args[0]), {"RunConfig": RunConfig}) == wanted


def test_a_model_that_sees_its_answers_is_compared_with_nothing():
    scores = [score(np.ones(len(TOKENS)), leaks=leaks) for leaks in (True, False)]
    with pytest.raises(CurvekitError, match="sees the words that it is to predict, so nothing can be compared"):
        paired_bootstrap(*scores)


def test_markdown_keeps_its_columns_whatever_a_cell_says():
    assert markdown_table([{"recipe": "a|b", "BLEU": "1"}]) == "| recipe | BLEU |\n| --- | ---: |\n| a\\|b | 1 |"


def test_latex_is_escaped_and_set_with_booktabs(trained, tmp_path):
    comparison = run_experiment(
        CONFIG, ["gpt2", "curve+softemax"], [0, 1], tmp_path, samples=100, command="make a_b\n\\input{x}"
    )
    table = (tmp_path / "results.tex").read_text(encoding="utf-8")
    assert "% Command: make a_b \\input{x}\n" in table  # the comment ends where its line ends
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"95\% interval", r"$\Delta$", r"$\pm$", "curve+softemax"):
        assert part in table
    body = table[table.index(r"\begin{tabular}") : table.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {12} and len(rows) == 3
    assert not re.search(r"(?<!\\)[%#]", body)
    assert comparison.row("curve+softemax")["verdict"] == "worse"
    assert latex(r"a_b & 5% of {x}^2 \cmd ~ $3 #1") == (
        r"a\_b \& 5\% of \{x\}\textasciicircum{}2 \textbackslash{}cmd \textasciitilde{} \$3 \#1"
    )
    assert latex("-0.0123 [-0.02, +0.01]") == "$-0.0123$ [$-0.02$, $+0.01$]"


def test_runs_anywhere_can_be_compared_and_other_differences_are_said(trained, tmp_path):
    train = sys.modules["curvekit.training.trainer"].train
    for recipe, steps in (("gpt2", 5), ("curve", 6)):
        train(RunConfig(recipe=recipe, steps=steps, save_every=steps), tmp_path / recipe)
    comparison = compare([tmp_path / "gpt2", tmp_path / "curve"], samples=100)
    assert comparison.differing == ["steps"]
    assert "The runs differ in more than the recipe: steps." in comparison.notes()
    assert not (tmp_path / "comparison.json").exists() and "Command" not in comparison.to_markdown()
    train(RunConfig(recipe="curve", seed=1), tmp_path / "other")
    with pytest.raises(CurvekitError, match=r"curve has the seeds \[0, 1\], gpt2 has \[0\]"):
        compare([tmp_path / name for name in ("gpt2", "curve", "other")])
    train(RunConfig(recipe="curve"), tmp_path / "twice")
    with pytest.raises(CurvekitError, match="two runs are curve, seed 0"):
        compare([tmp_path / name for name in ("gpt2", "curve", "twice")])
    (tmp_path / "curve" / "metrics.json").unlink()
    with pytest.raises(CurvekitError, match="is not finished"):
        compare([tmp_path / "gpt2", tmp_path / "curve"])


def test_a_diverged_run_is_reported_and_does_not_flatter_the_mean(trained, tmp_path):
    run_experiment(CONFIG, ["gpt2", "curve"], [0, 1], tmp_path, samples=100)
    place = tmp_path / "runs" / "curve-seed1" / "scores-test.json"
    saved = json.loads(place.read_text(encoding="utf-8"))
    write_json(place, saved | {"nll": [None] * len(saved["nll"])})
    comparison = run_experiment(CONFIG, ["gpt2", "curve"], [0, 1], tmp_path, samples=100)
    row = comparison.row("curve")
    assert row["verdict"] == "diverged: no finite loss" and row["perplexity"] is None and row["p"] is None
    assert "curve could not be compared (diverged: no finite loss)" in comparison.summary()
    assert load_comparison(tmp_path) == comparison


@pytest.mark.parametrize(
    ("recipes", "seeds", "baseline", "message"),
    [
        (["gpt2", "curv"], [0], "gpt2", "unknown recipe 'curv'; did you mean 'curve'"),
        (["curve"], [0], "gpt2", r"unknown baseline among the recipes 'gpt2'.*known: curve"),
        ([], [0], "gpt2", "0 recipes by 1 seeds"),
        (["gpt2"], [], "gpt2", "1 recipes by 0 seeds"),
    ],
)
def test_bad_input_is_one_clear_sentence_before_anything_is_trained(
    trained, tmp_path, recipes, seeds, baseline, message
):
    with pytest.raises(CurvekitError, match=message):
        run_experiment(CONFIG, recipes, seeds, tmp_path, baseline)
    assert trained == []


@pytest.mark.parametrize(
    ("settings", "recipes", "seeds", "message"),
    [
        ({"model": {"normalisation": "layernrm"}}, ["gpt2", "curve"], [0], "did you mean 'layernorm'"),
        ({"encoder": "./no-such"}, ["gpt2", "curve"], [0], "there is no encoder folder './no-such'"),
        ({}, ["gpt2", "curve"], [0, -1], "seed is -1; give 0 or more"),
        ({"context": "causal"}, ["gpt2", "curve", "curve-causal"], [0], "curve-causal the same model as curve"),
        ({"model": {"attention": "softemax"}}, ["gpt2", "softemax"], [0], "softemax the same model as gpt2"),
    ],
)
def test_what_cannot_be_trained_or_tells_nothing_is_refused_before_anything_is(
    trained, tmp_path, settings, recipes, seeds, message
):
    with pytest.raises(CurvekitError, match=message):
        run_experiment(RunConfig(steps=7, **settings), recipes, seeds, tmp_path)
    assert trained == []


def test_a_folder_without_a_comparison_says_so(tmp_path):
    with pytest.raises(CurvekitError, match=r"there is no .*comparison\.json"):
        load_comparison(tmp_path)
    write_json(tmp_path / "comparison.json", {"rows": []})
    with pytest.raises(CurvekitError, match="not of this version"):
        load_comparison(tmp_path)


def test_scores_of_real_models_are_compared(tiny_base, tiny_tokenizer, tiny_texts):
    """A trained-nothing model against itself with a louder head: same documents, same signature, clearly worse."""
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(tiny_base)
    plain = score_documents(model, tiny_tokenizer, tiny_texts[:20])
    model.transformer.ln_f.weight.data *= 20
    loud = score_documents(model, tiny_tokenizer, tiny_texts[:20])
    found = paired_bootstrap(loud, plain)
    assert found.verdict == "worse" and found.difference == pytest.approx(loud.loss - plain.loss)
    with pytest.raises(CurvekitError, match=r"context \(64 against 32\)"):
        paired_bootstrap(plain, score_documents(model, tiny_tokenizer, tiny_texts[:20], context=32))


def test_a_real_experiment_runs_from_training_to_table(tiny_base, tiny_corpus, tmp_path):
    config = RunConfig(
        base=str(tiny_base), corpus=str(tiny_corpus), steps=2, block_size=32, batch_size=2, eval_every=2,
        sample_prompts=2, sample_tokens=4, prompt_tokens=4,
    )  # fmt: skip
    comparison = run_experiment(config, ["gpt2", "softemax"], [0], tmp_path / "experiment")
    row = comparison.row("softemax")
    assert row["verdict"] in ("better", "worse", "no significant difference") and row["trainable_parameters"] > 0
    assert comparison.documents == 8 and "With 8 documents the intervals are rough." in comparison.summary()
    for part in ("split:test", "context:32", "stride:16", "tokenizer_hash:"):
        assert part in comparison.signature
    assert str(tmp_path) not in comparison.signature
