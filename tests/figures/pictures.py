"""One picture of each kind, from data small enough to reason about, and what a reader finds written in it."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch

from curvekit import figures
from curvekit.curves import bernstein_weights
from curvekit.normalisers import VARIANTS, softemax

RECIPES = ["gpt2", "curve", "softemax", "curve+softemax", "published", "encoder", "self-curve", "random-encoder"]
SCORES = np.linspace(-6, 8, 57)
TOKENS = [" The", " bank", " of", " the", " r", "iver", " was", " €", " 東京", " $5", ".", "\n"]
RANDOM = np.random.default_rng(0)
POINTS = RANDOM.normal(size=(len(TOKENS), 2)).cumsum(0)


def rows_of(scores, keys=8):
    rows = torch.zeros(len(scores), keys, dtype=torch.float64)
    rows[:, 0] = torch.from_numpy(scores)
    return rows


def difference(recipe, middle, reach, **more):
    return {
        "recipe": recipe,
        "difference": middle,
        "low": middle - reach,
        "high": middle + reach,
        "verdict": "x",
    } | more


def family():
    return figures.family(SCORES, {v: softemax(rows_of(SCORES), variant=v)[:, 0] for v in VARIANTS}, 8)


def limits():
    rows = torch.from_numpy(SCORES)[:, None].expand(-1, 16)
    return figures.limits(SCORES, {v: softemax(rows, variant=v)[:, 0] for v in ("softmax", "stable", "published")}, 16)


def overflow():
    scores = np.linspace(0, 100, 101)
    with np.errstate(over="ignore"):
        sums = {d: {"stable": np.ones(101), "published": np.exp(scores.astype(d))} for d in ("float16", "float32")}
    return figures.overflow(scores, sums)


def gradients():
    values = {v: softemax(rows_of(SCORES), variant=v) for v in ("softmax", "stable", "published")}
    return figures.gradients(SCORES, {v: w[:, 0] for v, w in values.items()}, {v: -w[:, 1] for v, w in values.items()})


def row_sums():
    keys = 2 ** np.arange(10)
    return figures.row_sums(keys, {"softmax": np.ones(10), "stable": keys / (keys + 16), "published": keys / 16})


def attention_maps():
    seen = torch.ones(len(TOKENS), len(TOKENS)).tril().bool()
    return figures.attention_maps(
        {v: softemax(torch.randn(seen.shape), variant=v, mask=seen) for v in VARIANTS[:3]}, TOKENS
    )


def sentence_curve():
    arcs = POINTS[:, None] + np.linspace(0, 1, 9)[:, None]
    return figures.sentence_curve(POINTS, TOKENS, arcs, POINTS + 0.3, (0.3, 0.2))


def word_in_contexts():
    panels = {"static": ((0, 0), POINTS[:6]), "both sides": ((1, 1), POINTS[6:])}
    sentences = ["short", "a long sentence that goes on and on " * 5, "$100 in the bank", "東京 bank", "e", "f"]
    return figures.word_in_contexts(panels, sentences, [0, 1, 0, 1, 2, 3], "bank")


def curve_family():
    places = np.array([0, 0.5, 1])
    curves = {n: bernstein_weights(n, torch.from_numpy(places)).numpy() @ POINTS[-n - 1 :] for n in range(4)}
    return figures.curve_family(POINTS[-4:], curves, curves, places)


def curve_weights():
    places = torch.linspace(0, 1, 21, dtype=torch.float64)
    return figures.curve_weights(places, {"Bernstein": {n: bernstein_weights(n, places) for n in range(4)}})


def leak_map():
    causal = np.triu(RANDOM.random((len(TOKENS) - 1, len(TOKENS))), 1)
    return figures.leak_map({"gpt2": causal, "curve": causal, "published": causal + 0.1}, TOKENS)


def leak_perplexity():
    rows = [("gpt2", 812.0, 812.0), ("curve", 645.0, 645.0), ("published", 14.2, 9321.0)]
    return figures.leak_perplexity(
        [dict(zip(("recipe", "teacher_forced", "prefix_only"), r, strict=True)) for r in rows]
    )


def training_curves():
    history = [
        {"step": s, "loss": 9 / s, "learning_rate": 1e-3, "grad_norm": None if s == 4 else 1.0} for s in range(1, 30)
    ]
    return figures.training_curves([*history, *({"step": s, "validation_loss": 9 / s} for s in (10, 20))], "curve")


def learning_curves():
    steps = np.arange(10, 60, 10)
    runs = {r: [(steps, 6 - k / 100 + RANDOM.normal(size=5) / 100) for _ in range(3)] for k, r in enumerate(RECIPES)}
    runs["published"] = [(steps, np.full(5, 2.0))] * 3
    return figures.learning_curves(runs, leaks=["published"])


def difference_intervals():
    untested = {"low": None, "high": None, "difference": None}
    rows = [difference("curve", -0.04, 0.01), difference("softemax", 0.002, 0.01), difference("sink", 0, 0) | untested]
    return figures.difference_intervals([*rows, difference("published", -2, 0.1, leaks=True)], corpus="wikitext-2")


def ablations():
    return figures.ablations({r: 200 + RANDOM.normal(size=3) for r in RECIPES}, leaks=["published"])


def difference_by_group():
    rows = [difference("", 0.1, 0.05, label=label, tokens=1000) for label in ("0–9", "10–99", "100 and more")]
    return figures.difference_by_group({r: rows for r in RECIPES[1:4]}, "frequency in training")


def token_cuts():
    letters = list("The river was low in summer, and $5 lay on the sand. " * 3)
    return figures.token_cuts({"characters": letters, "bpe": TOKENS, "bpe-dropout, draw 1": [*" r", "iv", "er"]})


def benchmark_ratios():
    goal = {"kind": "ratio", "value": 0.95}
    row = {"group": "attention", "name": "forward and backward, T = 2048", "ratio": 1.02, "low": 0.9, "high": 1.3}
    slow = {"group": "curve", "name": "$5 " * 12, "ratio": 0.1, "low": 0.01, "high": 0.2, "goal": None}
    return figures.benchmark_ratios([row | {"goal": goal}, slow, row | {"ratio": 80.0, "high": 90.0, "goal": goal}])


def token_probabilities():
    odds = np.linspace(0, 1, len(TOKENS) * 8)
    blocks = {"gpt2": (TOKENS * 8, odds), "mini, $eed 東京": (TOKENS, odds[: len(TOKENS)]), "curve": ([], [])}
    return figures.token_probabilities(blocks, "Once upon a $5 " * 20)


def attention_rows():
    scores = torch.from_numpy(RANDOM.normal(size=len(TOKENS)))
    rows = {v: softemax(scores, variant=v) for v in ("softmax", "stable", "published")}
    return figures.attention_rows(rows, TOKENS, {"softmax": 0.0, "stable": 0.4, "published": None})


def task_figures():
    draw = np.random.default_rng(0)
    items = {"base": 100 * draw.beta(1, 2, 30), "run": 100 * draw.beta(2, 1, 30)}
    return figures.task_figures(items, "squad_qa", "f1", {"majority": 0.0, "lead": 11.0}, {"run": "curve"}, "0 to 100")


def win_rates():
    rows = [
        {"model": m, "rate": 0.5 + k / 4, "low": 0.4 + k / 4, "high": 0.6 + k / 4, "wins": 6, "ties": 2, "losses": 4}
        for k, m in enumerate(("gpt2", "a model $of one's own"))
    ]
    return figures.win_rates({"Which is better?": rows, "Which is more fluent?": rows[::-1]})


def preference_changes():
    change = {"difference": 0.3, "low": 0.2, "high": 0.4}
    row = {"name": "DPO", **dict.fromkeys(("reward", "judge", "perplexity", "tokens"), change)}
    row["distinct"] = {"difference": -0.1, "low": None, "high": None}
    return figures.preference_changes([row, row | {"name": "PPO, paid for length"}])


def preference_histories():
    dpo = [{"step": i, "loss": 0.7 / (i + 1), "reward_margin": i / 10} for i in range(1, 9)]
    ppo = [{"step": i, "loss": -0.01 * i, "reward": i / 10, "kl": i / 5} for i in range(1, 9)]
    return figures.preference_histories({"DPO": [dpo, dpo[:4]], "PPO": [ppo]})


def differences_by_rung():
    rows = [
        {"candidate": r, "difference": -0.1 * k, "low": -0.1 * k - 0.02, "high": 0.02} for k, r in enumerate(RECIPES)
    ]
    return figures.differences_by_rung({"250 steps": rows, "1,000 steps": rows[1:3]}, "gpt2")


def gain_by_bin():
    values = {r: RANDOM.normal(size=(3, 4)) for r in RECIPES[1:4]}
    return figures.gain_by_bin({w: (["0–9", "10–99", "100–999", "1,000 and more"], values) for w in ("count", "place")})


def losses_by_depth():
    apart = [(x, x - 0.1, x + 0.1) for x in (-2.0, -0.5, 0.0, -0.4)]
    return figures.losses_by_depth({"plain": [9.0, 7.0, 5.0, 4.0], "curve3+sites": [7.0, 6.5, 5.0, 3.6]}, apart)


def looks_back():
    kernels = {f"block {k}, attention": RANDOM.normal(size=(32, 3 + k % 2)) for k in range(5)}
    return figures.looks_back(kernels, "How far back?", "Of $5.")


def quality_and_cost():
    rows = [
        {
            "name": n,
            "bits": 2 - k / 4,
            "decode_ms": 4.0 * 5**k,
            "prefill_ms": 20.0 * 4**k,
            "prefill_tokens": 128,
        }
        for k, n in enumerate(("mini", "a model $of one's own", "t5-small"))
    ]
    return figures.quality_and_cost(
        rows, ["t5-small"], "a processor, 2 threads, float32", " after their first 40 words"
    )


def token_differences():
    return figures.token_differences(TOKENS * 8, RANDOM.normal(size=len(TOKENS) * 8), "curve+softemax")


SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.degree": {"low": 1, "high": 4, "log": False},
    "optimizer": {"choices": ["adamw", "muon"]},
}


def trials():
    """Trials of a search, every fifth of them given up."""
    drawn = np.random.default_rng(0)
    rows = []
    for number in range(15):
        bits = 1.4 + 0.1 * drawn.random()
        values = {
            "learning_rate": 10 ** drawn.uniform(-4, -2),
            "model.degree": int(drawn.integers(1, 5)),
            "optimizer": "muon",
        }
        folds = [{"bits": [bits + 0.2, bits + shift]} for shift in (-0.02, 0.01, 0.03)]
        rows.append(
            {
                "number": number,
                "values": values,
                "bits": None if number % 5 == 4 else bits,
                "folds": folds,
                "seconds": 30.0,
            }
        )
    return rows


def importances():
    return figures.importances({"learning_rate": 0.7, "model.degree": 0.2, "optimizer": 0.1}, "curve")


def slices():
    return figures.slices(trials(), SPACE, "curve")


def parallel_coordinates():
    return figures.parallel_coordinates(trials(), SPACE, "curve")


def fold_spread():
    return figures.fold_spread(trials(), trials()[0]["folds"], "curve")


def cost():
    return figures.cost(trials(), "curve")


def success_against_perplexity():
    rows = [
        {"way": way, "strength": x, "success": y, "success_low": y - 0.1, "success_high": y + 0.1, "perplexity": z,
         "perplexity_low": 0.9 * z, "perplexity_high": 1.2 * z}
        for way, x, y, z in (("none", 0, 0.3, 90), ("bag", 0.1, 0.5, 100), ("bag", 0.3, 0.8, 400), ("own", 1, 0.6, 95))
    ]  # fmt: skip
    return figures.success_against_perplexity(rows, "positive")


def document_lengths():
    drawn = np.random.default_rng(0)
    lengths = {split: drawn.lognormal(5, 1, n).astype(int) for split, n in (("train", 300), ("test", 40))}
    return figures.document_lengths(lengths, "novels")


def zipf():
    return figures.zipf(np.sort(2000 / np.arange(1, 400)).astype(int)[::-1] + 1, 0.98, 0.41, ["the", "of"], "novels")


def shares_of_scripts():
    return figures.shares_of_scripts({"Latin": 90_000, "Greek": 200, "Han": 3}, "novels")


def price_of_a_vocabulary():
    tokens = {"mini": {"prose": 1.3, "verse": 1.6}, "characters": {"prose": 5.1, "verse": 5.4}}
    return figures.price_of_a_vocabulary(tokens, "What does a word cost?", "Tokens a word.", "tokens")


def price_of_languages():
    prices = {
        name: {language: {"premium": x * y} for language, x in (("en", 1.0), ("ru", 4.0))}
        for name, y in (("mini", 1.0), ("bpe", 0.9))
    }
    return figures.price_of_languages(prices)


def accuracy_by_shots():
    rows = [
        {
            "shots": n,
            "accuracy": y,
            "low": y - 0.1,
            "high": y + 0.1,
            "accuracies": [[y - 0.04, y + 0.02], [y, y + 0.05]],
        }
        for n, y in ((0, 0.52), (1, 0.61), (4, 0.7), (8, 0.68))
    ]
    return figures.accuracy_by_shots(rows, 0.5)


def calibration():
    held = np.full(15, 100)
    places = (np.arange(15) + 0.5) / 15
    return figures.calibration(
        {"curve": {"confidence": held * places, "hits": (held * places**1.2).astype(int), "held": held, "error": 0.04}}
    )


def recognised():
    rows = [
        {"label": label, "plain": 0.1, "steered": share}
        for label, share in zip(TOKENS[:5], (1, 0.8, 0.6, 0.3, 0), strict=True)
    ]
    return figures.recognised(rows, 0.125)


def sinks_by_depth():
    layers = np.arange(1, 9)
    return figures.sinks_by_depth(
        {
            "plain": {
                "first_token": layers / 10,
                "nobody": 0 * layers,
                "kurtosis": 3.0 * layers,
                "largest": 4.0**layers,
            },
            "softemax": {name: np.array([0.1, 0.3, 0.2, 0.9]) for name in ("first_token", "nobody")}
            | {name: np.array([3.5, 4.0, 5.0, 9.0]) for name in ("kurtosis", "largest")},
        }
    )


def losses_by_context():
    windows = (128, 256, 512, 1_024, 2_048)
    return figures.losses_by_context(
        {name: {w: 4 + k * 0.1 + 0.2 * abs(i - 1) for i, w in enumerate(windows)} for k, name in enumerate("abc")},
        {name: {w: (k * i / 10, k * i / 10 - 0.1, k * i / 10 + 0.1) for i, w in enumerate(windows)}
         for k, name in enumerate("bc", start=1)},
        trained=256,
    )  # fmt: skip


def differences_by_rate():
    series = {
        "plain": {2.5e-4: (0.016, 0.01, 0.02), 5e-4: (0.0, 0.0, 0.0)},
        "curve": {5e-4: (-0.005, -0.008, -0.003), 1e-3: (0.026, 0.02, 0.03), 2e-3: (0.33, 0.31, 0.35)},
    }
    return figures.differences_by_rate(series, "plain at 0.0005")


GALLERY = [
    family, limits, overflow, gradients, row_sums, attention_maps, sentence_curve, word_in_contexts, curve_family,
    curve_weights, leak_map, leak_perplexity, training_curves, learning_curves, difference_intervals, ablations,
    difference_by_group, token_differences, token_probabilities, attention_rows, win_rates, token_cuts,
    benchmark_ratios, differences_by_rung, gain_by_bin, losses_by_depth, looks_back, success_against_perplexity,
    importances, slices, parallel_coordinates, fold_spread, cost,
    preference_changes, preference_histories, accuracy_by_shots,
    task_figures,
    document_lengths, zipf, shares_of_scripts, price_of_a_vocabulary, price_of_languages, calibration,
    quality_and_cost, recognised, sinks_by_depth, losses_by_context, differences_by_rate,
]  # fmt: skip


def texts_of(figure):
    figure.canvas.draw()
    return [t for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text().strip()]


def said(figure):
    return " ".join(text.get_text() for text in texts_of(figure))
