"""A ladder gives every candidate the same terms, goes on where it stopped, and refuses what does not compare."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from curvekit.bases.tokenizer import base_tokenizer
from curvekit.errors import CurvekitError
from curvekit.experiments import ladder
from curvekit.experiments.ladder import Candidate, Job, Rung, difference, load_results, table, widened, work
from curvekit.files import read_json, write_json, write_jsonl
from curvekit.recipes import recipe_settings
from curvekit.training.lean import TokenSet, score_tokens

SMALL = "n_layer=1,n_embd=40,n_positions=64"
TERMS = {"block_size": 32, "batch_size": 2, "context_eval": 32, "precision": "float32"}


@pytest.fixture(scope="module")
def tokens(tiny_texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for split, texts in {"train": tiny_texts[:40], "validation": tiny_texts[40:45], "test": tiny_texts[45:50]}.items():
        write_jsonl(folder / f"{split}.jsonl", [{"text": text, "source": "abc"[i % 2]} for i, text in enumerate(texts)])
    return TokenSet.load(ladder.prepare(folder, folder / "tokens.safetensors", other={"x": tiny_texts[50]}))


@pytest.fixture
def rungs(monkeypatch):
    monkeypatch.setitem(ladder.RUNGS, "small", Rung(4, ("validation", "test"), 32))


def made(root, tokens, *candidates, seeds=(0, 1), **settings):
    jobs = [Job(f"{name}{',' if ':' in name else ':'}{SMALL}", "small", seed) for seed in seeds for name in candidates]
    work(jobs, root, tokens, encoder="minilm", beside=2, device="cpu", **TERMS | settings)
    for path in root.glob("*/*/error.txt"):
        raise AssertionError(path.read_text())
    return load_results(root, "small")


def test_prepared_tokens_are_the_texts(tokens, tiny_texts):
    tokenizer = base_tokenizer("mini")
    whole = tokenizer.decode(tokens.train.tolist())
    assert whole == "".join(f"{tokenizer.eos_token}{text}" for text in tiny_texts[:40])
    held_out = tokens.splits["validation"]
    streams = held_out.streams(tokens.facts["prefix"])
    assert [tokenizer.decode(stream[1:].tolist()) for stream in streams] == tiny_texts[40:45]
    assert held_out.bytes.tolist() == [len(text.encode()) for text in tiny_texts[40:45]]
    assert held_out.sources == ["a", "b", "a", "b", "a"]
    assert list(tokens.splits) and "other" in tokens.splits


def test_candidates_share_weights_order_and_terms_and_differences_have_intervals(tokens, rungs, tmp_path):
    results = made(tmp_path, tokens, "plain", "self-curve3", "sites:own_rate=4")
    plain, curve, sites = (results[name] for name in sorted(results))
    assert [run["seed"] for run in plain] == [0, 1]
    for seed in (0, 1):
        assert plain[seed]["order"] == curve[seed]["order"] == sites[seed]["order"]
        assert plain[seed]["losses"][0] == curve[seed]["losses"][0], "a shut gate: the same model, the same blocks"
    assert plain[0]["order"] != plain[1]["order"]
    assert sites[0]["settings"]["own_rate"] == 4 and plain[0]["settings"]["own_rate"] == 1
    assert sites[0]["losses"] != plain[0]["losses"]
    found = difference(sites, plain, "test", samples=200)
    expected = np.mean([a["scores"]["test"]["loss"] - b["scores"]["test"]["loss"] for a, b in zip(sites, plain)])  # noqa: B905
    assert found.difference == pytest.approx(expected, abs=1e-4) and found.low <= found.difference <= found.high
    rows = table(tmp_path, "small", "test", baseline=plain[0]["candidate"], samples=200)
    assert [row["loss"] for row in rows] == sorted(row["loss"] for row in rows)
    assert {"bits_per_byte a", "bits_per_byte b"} < rows[0].keys()
    assert all(row["candidate"] in text for row in rows for text in (ladder.as_markdown(rows), json.dumps(rows)))
    assert ladder.as_latex(rows).count(r"\\") == 4


def test_what_is_finished_is_not_repeated_and_what_was_stopped_ends_alike(tokens, rungs, tmp_path):
    whole = made(tmp_path / "whole", tokens, "plain", "canon", seeds=(0,))
    root = tmp_path / "stopped"
    work([Job(f"plain:{SMALL}", "small", 0)], root, tokens, encoder="minilm", beside=1, device="cpu", **TERMS)
    folder = Job(f"plain:{SMALL}", "small", 0).folder(root)
    written = (folder / "result.json").stat().st_mtime_ns
    job = Job(f"canon:{SMALL}", "small", 0)
    work([job], root, tokens, encoder="minilm", beside=1, device="cpu", until=0.0, **TERMS | {"batch_size": 2})
    results = made(root, tokens, "plain", "canon", seeds=(0,))
    assert (folder / "result.json").stat().st_mtime_ns == written
    for name, runs in results.items():
        assert runs[0]["losses"] == whole[name][0]["losses"] and runs[0]["scores"] == whole[name][0]["scores"]


@pytest.mark.parametrize("field", ["rung", "tokens", "order", "corpus", "seed", "batch_size"])
def test_runs_on_other_terms_are_refused(field, tokens, rungs, tmp_path):
    (runs,) = made(tmp_path, tokens, "plain", seeds=(0,)).values()
    other = json.loads(json.dumps(runs))
    (other[0]["settings"] if field == "batch_size" else other[0])[field] = 17
    with pytest.raises(CurvekitError, match=field):
        difference(runs, other, "test")


def test_what_leaks_gets_no_result(tokens, rungs, tmp_path):
    with pytest.raises(AssertionError, match="sees the tokens"):
        made(tmp_path, tokens, "published:source=self,normalisation=layernorm", seeds=(0,))


def test_results_travel_as_one_file(tokens, rungs, tmp_path):
    made(tmp_path / "a", tokens, "plain", seeds=(0,))
    assert ladder.collect(tmp_path / "a", tmp_path / "all.json") == 1
    assert ladder.scatter(tmp_path / "all.json", tmp_path / "b") == 1
    assert load_results(tmp_path / "a", "small") == load_results(tmp_path / "b", "small")
    assert load_results(tmp_path / "a", "small") == load_results(tmp_path / "all.json", "small")


def test_a_brief_file_gives_the_same_table(tokens, rungs, tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "BRIEF_LOSSES", 3)
    (name, whole), _ = made(tmp_path / "a", tokens, "plain", "sites").items()
    ladder.collect(tmp_path / "a", tmp_path / "all.json", brief=True)
    (short, *_) = load_results(tmp_path / "all.json", "small")[name]
    assert len(short["losses"]) == 2 and np.mean(short["losses"]) == pytest.approx(
        np.mean(whole[0]["losses"]), abs=1e-4
    )
    first, again = (table(each, "small", "test", name, samples=50) for each in (tmp_path / "a", tmp_path / "all.json"))
    for a, b in zip(first, again, strict=True):
        for column in ("loss", "difference", "low", "high"):
            assert a.get(column) == pytest.approx(b.get(column), abs=1e-3), column


@pytest.mark.parametrize("vocabulary", [1_000, 8_192])
def test_a_widened_model_has_as_many_parameters_as_it_can(vocabulary):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {}
    width = widened(8_087_808, vocabulary)
    for each in (width - 5, width, width + 5):
        with torch.device("meta"):
            config = GPT2Config(vocab_size=vocabulary, n_positions=512, n_embd=each, n_layer=4, n_head=5)
            sizes[each] = abs(GPT2LMHeadModel(config).num_parameters() - 8_087_808)
    assert min(sizes, key=sizes.__getitem__) == width


def test_a_candidate_is_read_as_it_is_written():
    found = Candidate.parse("curve3:degree=3,channels=point+tangent,random_encoder=true,own_rate=4,like=a+b")
    assert found.recipe == "curve3" and found.training == {"own_rate": 4}
    assert found.model == {"degree": 3, "channels": ("point", "tangent"), "random_encoder": True, "like": "a+b"}
    for wrong, message in {"curv3": "curve3", "plain:wide": "setting=value"}.items():
        with pytest.raises(CurvekitError, match=message):
            Candidate.parse(wrong)


KERNELS = "sites=attention+mlp,mixer=canon,attention=softemax"
CALLED = {
    f"encoder:{KERNELS},site_rate=4": "encoder+canon+softemax:site_rate=4",
    f"self-curve3:site_rate=4,{KERNELS}": "self-curve3+canon+softemax:site_rate=4",
    "canon:own_rate=4,attention=softemax": "canon+softemax:own_rate=4",
    "encoder:sites=attention+mlp,site_degree=2,attention=sink": "encoder+sites+sink:site_degree=2",
}


@pytest.mark.parametrize(("text", "called"), CALLED.items())
def test_a_candidate_is_called_by_the_recipes_that_are_what_it_sets(text, called):
    long, short = Candidate.parse(text), Candidate.parse(called)
    assert long.known_as == short.known_as == called
    settings = [recipe_settings(each.recipe, each.model | {"recipe": ""}) for each in (long, short)]
    assert settings[0] == settings[1] and long.training == short.training


@pytest.mark.parametrize(
    "name", ["plain", "curve3:degree=1", "canon:own_rate=4", "plain:like=curve3", "curve:degree=2", "plain:steps=9"]
)
def test_and_by_its_own_name_where_none_are(name):
    assert Candidate.parse(name).known_as == name


def test_recipes_of_one_candidate_set_nothing_twice():
    with pytest.raises(CurvekitError, match="sets attention twice"):
        Candidate.parse("curve3+softemax+sink")
    with pytest.raises(CurvekitError, match="did you mean|recipe"):
        Candidate.parse("curve3+cannon")


def test_results_are_read_by_the_name_that_they_are_known_as(tokens, rungs, tmp_path):
    long = f"encoder:{KERNELS},site_rate=4"
    made(tmp_path, tokens, "plain", seeds=(0,))
    path = next(tmp_path.glob("small/*/result.json"))
    write_json(path, read_json(path) | {"candidate": long})
    ((name, (run,)),) = load_results(tmp_path, "small").items()
    assert name == run["candidate"] == "encoder+canon+softemax:site_rate=4"


def test_kept_weights_become_a_model_that_scores_as_the_run_did(tokens, rungs, tmp_path, capsys):
    (run,) = made(tmp_path, tokens, "sites", seeds=(0,), weights=True)[f"sites:{SMALL}"]
    (weights,) = tmp_path.glob("small/*/weights.safetensors")
    arguments = ["save", str(weights), str(tmp_path / "model"), "--candidate", f"sites:{SMALL}", "--seed", "0"]
    ladder.main(arguments)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    score, _ = score_tokens(model, tokens, "test", 32, 32)
    assert score.loss == pytest.approx(run["scores"]["test"]["loss"], abs=2e-3), "but for weights of half precision"
    with pytest.raises(CurvekitError, match="is there already"):
        ladder.main(arguments)
    with pytest.raises(CurvekitError, match="other tensors"):
        ladder.main(["save", str(weights), str(tmp_path / "other"), "--candidate", f"canon:{SMALL}"])


def test_the_command_prints_a_table(tokens, rungs, tmp_path, capsys):
    made(tmp_path, tokens, "plain", seeds=(0,))
    path = next(tmp_path.glob("small/*/result.json"))
    write_json(path, read_json(path) | {"candidate": "plain"})
    ladder.main(["table", "small", "test", "--folder", str(tmp_path), "--samples", "50"])
    assert "| plain | 1 |" in capsys.readouterr().out
