"""A lean run learns what the Trainer's learns, asks the device for nothing, and scores what the metrics score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from curvekit.bases.building import build_model
from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.text.corpora import load_corpus
from curvekit.text.packing import pack
from curvekit.text.tokenization import start_token
from curvekit.training.lean import Documents, LeanConfig, LeanRun, TokenSet, data_order, score_tokens, together
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train

SETTINGS = {"steps": 9, "block_size": 16, "batch_size": 3, "learning_rate": 2e-3, "warmup": 0.3, "seed": 5}


@pytest.fixture(scope="module")
def blocks(tiny_corpus, tiny_tokenizer):
    texts = load_corpus(str(tiny_corpus))["train"]["text"][:6]
    stream = pack(texts, tiny_tokenizer, 16, progress=False)
    return stream


@pytest.fixture(scope="module")
def tokens(tiny_corpus, tiny_tokenizer):
    corpus = load_corpus(str(tiny_corpus))
    texts = corpus["test"]["text"]
    ids = [tiny_tokenizer(text)["input_ids"] for text in texts]
    documents = Documents(
        np.concatenate(ids).astype(np.uint16),
        np.cumsum([0, *map(len, ids[:-1])]),
        np.array([len(text.split()) for text in texts]),
        np.array([len(text.encode()) for text in texts]),
        [""] * len(texts),
    )
    stream = np.array(pack(corpus["train"]["text"], tiny_tokenizer, 16, progress=False).stream)
    facts = {"corpus": "tiny", "revisions": {"test": "x"}, "tokenizer_hash": "y"}
    facts |= {"vocabulary": len(tiny_tokenizer), "prefix": start_token(tiny_tokenizer)}
    return TokenSet(stream, {"test": documents}, facts)


@pytest.mark.parametrize("recipe", ["gpt2", "curve3+softemax", "sites", "canon"])
def test_its_losses_are_the_trainers(recipe, blocks, tiny_base, tiny_encoder, tiny_tokenizer, tiny_corpus, tmp_path):
    """Over more than one pass, whose last batch is a short one."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = (tiny_corpus / f"{split}.txt").read_text().splitlines()
        (folder / f"{split}.txt").write_text("\n".join(lines[:6] if split == "train" else lines) + "\n")
    config = RunConfig(
        recipe=recipe, base=str(tiny_base), corpus=str(folder), encoder=str(tiny_encoder), scratch=True,
        optimizer="muon", precision="float32", sample_prompts=0, eval_every=9, **SETTINGS,
    )  # fmt: skip
    run = train(config, tmp_path / "run", progress="none")
    theirs = [row["loss"] for row in run.history if "loss" in row]
    model = build_model(
        recipe, str(tiny_base), tiny_tokenizer, str(tiny_encoder), 5, True, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0,
    )  # fmt: skip
    every = torch.stack([blocks[i]["input_ids"] for i in range(len(blocks))])
    lean = LeanRun(model, LeanConfig(precision="float32", **SETTINGS), every)
    together([lean])
    assert len(set(lean.sizes)) == 2, "one batch is short"
    difference = np.abs(np.array(lean.history()) - theirs).max()
    assert difference < 2e-3, f"max_diff {difference:.2e}"  # stacked products round otherwise in bfloat16
    assert max(theirs) - min(theirs) > 0.2, "it learns"


def test_the_rates_are_the_schedules():
    from transformers import get_cosine_schedule_with_warmup

    config = LeanConfig(steps=50, warmup=0.1, learning_rate=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, 5, 50)
    for rate in config.rates():
        assert rate == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_every_pass_has_each_block_once_and_an_order_of_its_own():
    order = data_order(10, LeanConfig(steps=9, batch_size=4))
    assert [len(batch) for batch in order] == [4, 4, 2] * 3
    passes = [[block for batch in order[i : i + 3] for block in batch] for i in (0, 3, 6)]
    assert all(sorted(each) == list(range(10)) for each in passes) and passes[0] != passes[1] != passes[2]


class _Waits(TorchDispatchMode):
    """Collects operators that a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "unique"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "recipe", ["gpt2", "curve3+sites+softemax", "curve3-places", "learned", "smear", "canon", "sink"]
)
def test_a_step_waits_for_nothing(recipe, blocks, tiny_base, tiny_encoder, tiny_tokenizer):
    model = build_model(recipe, str(tiny_base), tiny_tokenizer, str(tiny_encoder), 5, True)
    every = torch.stack([blocks[i]["input_ids"] for i in range(len(blocks))])
    run = LeanRun(model, LeanConfig(precision="float32", **SETTINGS), every)
    run.advance(0)  # the optimiser makes its state
    with _Waits() as waits:
        run.advance(1)
    assert not waits.found


def test_a_loss_that_is_not_a_number_stops_the_run_with_a_sentence(blocks, tiny_base, tiny_tokenizer):
    model = build_model("gpt2", str(tiny_base), tiny_tokenizer, scratch=True)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    every = torch.stack([blocks[i]["input_ids"] for i in range(len(blocks))])
    run = LeanRun(model, LeanConfig(precision="float32", **SETTINGS), every)
    together([run])
    with pytest.raises(CurvekitError, match="not a number at step 1, and .* are not finite"):
        run.history()


def test_a_place_that_the_last_step_lost_is_named(blocks, tiny_base, tiny_encoder, tiny_tokenizer):
    model = build_model("curve3-places", str(tiny_base), tiny_tokenizer, str(tiny_encoder), scratch=True)
    every = torch.stack([blocks[i]["input_ids"] for i in range(len(blocks))])
    run = LeanRun(model, LeanConfig(precision="float32", **SETTINGS), every)
    together([run])
    with torch.no_grad():
        model.curved.curve.place_logit[0] = float("inf")
    with pytest.raises(CurvekitError, match="at the last step, and .*place_logit is not finite"):
        run.history()


@pytest.mark.parametrize("recipe", ["gpt2", "curve3+sites"])
@pytest.mark.parametrize("stride", [16, 5])
def test_its_scores_are_the_metrics(recipe, stride, tokens, make, tiny_tokenizer, tiny_corpus):
    model = make(recipe)
    texts = load_corpus(str(tiny_corpus))["test"]["text"]
    theirs = score_documents(model, tiny_tokenizer, texts, context=16, stride=stride)
    mine, bins = score_tokens(model, tokens, "test", 16, stride, batch_tokens=48)
    assert np.allclose(mine.nll, theirs.nll, atol=1e-3)
    for name in ("tokens", "correct", "words", "bytes"):
        assert (getattr(mine, name) == getattr(theirs, name)).all()
    for of in bins.values():
        assert sum(of["tokens"]) == mine.tokens.sum() and sum(of["nats"]) == pytest.approx(mine.nll.sum())


def test_what_leaks_is_not_scored(tokens, make):
    with pytest.raises(CurvekitError, match="sees the tokens"):
        score_tokens(make("published"), tokens, "test", 16, 16)


def test_a_token_set_is_read_as_it_was_written(tokens, tmp_path):
    import lzma

    tokens.save(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors.xz").write_bytes(lzma.compress((tmp_path / "a.safetensors").read_bytes()))
    for name in ("a.safetensors", "b.safetensors.xz"):
        again = TokenSet.load(tmp_path / name)
        assert (again.train == tokens.train).all() and again.facts == tokens.facts
        assert (again.splits["test"].ids == tokens.splits["test"].ids).all()
        assert again.splits["test"].sources == tokens.splits["test"].sources
