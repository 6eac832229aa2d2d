"""A prepared corpus: the same blocks as packing gives, whoever cut them, and a run that reads them."""

from __future__ import annotations

import dataclasses
import pickle
import shutil

import pytest

from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.files import read_json
from curvekit.text import shards as room
from curvekit.text.corpora import corpus_revision, load_corpus
from curvekit.text.packing import pack
from curvekit.text.shards import ShardedBlocks, open_corpus, prepare, revisions
from curvekit.training.settings import RunConfig
from curvekit.training.trainer import train


@pytest.fixture
def small(monkeypatch):
    """Shards of a few documents."""
    monkeypatch.setattr(room, "CHARACTERS", 1200)


def prepared(corpus, tokenizer, folder, workers=1):
    return prepare(corpus, "tiny", tokenizer, folder, workers, announce=lambda _: None)


def ids(blocks):
    return [block["input_ids"].tolist() for block in blocks]


@pytest.mark.parametrize("workers", [1, 3])
def test_shards_are_the_stream_that_packing_writes(tiny_corpus, tiny_tokenizer, tmp_path, small, workers):
    corpus = load_corpus(tiny_corpus)
    index = prepared(corpus, tiny_tokenizer, tmp_path / "out", workers)
    assert len(index["shards"]) > 3
    whole = pack(corpus["train"]["text"], tiny_tokenizer, 16, progress=False)
    blocks = open_corpus(str(tmp_path / "out"), announce=lambda _: None).blocks(tiny_tokenizer, 16)
    assert ids(blocks) == ids(whole)
    assert index["tokens"] == whole.tokens and index["documents"] == len(whole.starts)
    assert len(pickle.dumps(blocks)) < 4000, "a worker opens the shards again"
    assert ids(pickle.loads(pickle.dumps(blocks))) == ids(whole)


def test_what_was_cut_before_a_kill_is_kept(tiny_corpus, tiny_tokenizer, tmp_path, small, monkeypatch):
    corpus, cut = load_corpus(tiny_corpus), room._cut

    def killed(job):
        if job[0] == 2:
            raise KeyboardInterrupt
        return cut(job)

    monkeypatch.setattr(room, "_cut", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared(corpus, tiny_tokenizer, tmp_path / "out")
    with pytest.raises(CurvekitError, match="was not prepared to its end"):
        open_corpus(str(tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "train").glob("*.safetensors")}
    assert len(before) == 2
    monkeypatch.setattr(room, "_cut", cut)
    prepared(corpus, tiny_tokenizer, tmp_path / "out")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_run_reads_shards_and_has_the_losses_of_the_corpus(tiny_base, tiny_corpus, tiny_tokenizer, tmp_path, small):
    config = RunConfig(
        recipe="gpt2", base=str(tiny_base), corpus=str(tiny_corpus), steps=4, block_size=16, batch_size=2,
        eval_every=2, sample_prompts=0, validation_documents=4, eval_documents=2, precision="float32",
    )  # fmt: skip
    prepared(load_corpus(tiny_corpus), tiny_tokenizer, tmp_path / "out")
    one = train(config, tmp_path / "one", progress="none")
    two = train(dataclasses.replace(config, corpus=str(tmp_path / "out")), tmp_path / "two", progress="none")
    assert [row.get("loss") for row in one.history] == [row.get("loss") for row in two.history]
    assert one.metrics["perplexity"] == two.metrics["perplexity"]
    assert one.corpus == two.corpus == corpus_revision(load_corpus(tiny_corpus))


def test_what_cannot_be_read_is_said_in_a_sentence(tiny_corpus, tiny_bases, tiny_tokenizer, tmp_path, small, capsys):
    corpus, folder = load_corpus(tiny_corpus), tmp_path / "out"
    prepared(corpus, tiny_tokenizer, folder)
    opened = open_corpus(str(folder), announce=lambda _: None)
    assert revisions(opened) == corpus_revision(corpus)
    with pytest.raises(CurvekitError, match="was prepared for training and holds no texts"):
        load_corpus(folder)
    with pytest.raises(CurvekitError, match="fewer than one block of"):
        ShardedBlocks([folder / shard["file"] for shard in opened.index["shards"]], 10**6)
    from curvekit.bases.tokenizer import base_tokenizer

    with pytest.raises(CurvekitError, match="was cut by another tokeniser than the base's"):
        opened.blocks(base_tokenizer("mini"), 16)
    shard = folder / opened.index["shards"][1]["file"]
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(CurvekitError, match=r"00001.safetensors is missing or not whole"):
        opened.blocks(tiny_tokenizer, 16)
    other = corpus.copy()
    other["train"] = corpus["train"].select(range(20))
    with pytest.raises(CurvekitError, match="was prepared with another texts"):
        prepared(type(corpus)(other), tiny_tokenizer, folder)
    (folder / "test.jsonl").write_text('{"text": "another"}\n')
    with pytest.raises(CurvekitError, match="held-out texts of .* have changed"):
        open_corpus(str(folder))
    mine = tmp_path / "mine"
    shutil.copytree(tiny_corpus, mine)
    assert main(["prepare", str(tiny_corpus), str(mine), "--base", str(tiny_bases["gpt2"])]) == 2
    assert "is no prepared corpus, it holds" in capsys.readouterr().err


def test_the_command_prepares(tiny_corpus, tiny_base, tmp_path, capsys):
    assert main(["prepare", str(tiny_corpus), str(tmp_path / "out"), "--base", str(tiny_base)]) == 0
    assert "44 documents" in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "index.json")["documents"] == 44
