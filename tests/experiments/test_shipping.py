"""What ships of a ladder: the weights that were trained, a card measured from the files, and refusals of other runs."""

from __future__ import annotations

import random

import pytest
import torch

from curvekit.bases.opening import load_model
from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.experiments import ladder, shipping
from curvekit.experiments.ladder import Job, Rung
from curvekit.files import read_json
from curvekit.training.lean import TokenSet
from curvekit.training.pretraining import prepare

CANDIDATE = "self-curve3+sites"


@pytest.fixture(scope="module")
def data(tiny_texts, tmp_path_factory):
    """A folder of data as ``curvekit pretrain`` takes it: novels, stories, and articles."""
    folder = tmp_path_factory.mktemp("data")
    dice = random.Random(0)
    tales, texts = ([" ".join(dice.sample(words, len(words))) for words in map(str.split, tiny_texts)] for _ in "ab")
    for name in ("books", "stories", "wikitext-2"):
        (folder / name).mkdir()
    (folder / "books" / "one.txt").write_text("\n".join(texts[:30]), encoding="utf-8")
    stories = "".join(f"<sos> Tale {i} <nl> {text} <eos>\n" for i, text in enumerate(tales))
    (folder / "stories" / "stories.txt").write_text(stories, encoding="utf-8")
    for i, split in enumerate(("train", "valid", "test")):
        article = f" = Title {i} = \n\n A <unk> , with a guest @-@ star : {texts[30 + i]}\n\n"
        (folder / "wikitext-2" / f"{split}.txt").write_text(article, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The results of a long rung of two steps, and the weights of one of its runs."""
    root = tmp_path_factory.mktemp("ladder")
    prepare(data, root / "corpus")
    tokens = TokenSet.load(ladder.prepare(root / "corpus", root / "tokens.safetensors"))
    jobs = [Job(name, "long", 0) for name in ("plain", CANDIDATE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ladder.RUNGS, "long", Rung(2, ("validation", "test"), 256))
        ladder.work(
            jobs, root, tokens, encoder="minilm", beside=2, weights=True, device="cpu", block_size=32, batch_size=2
        )
    assert not list(root.glob("*/*/error.txt")), next(root.glob("*/*/error.txt")).read_text()
    ladder.collect(root, root / "results.json", brief=True)
    return root / "results.json", jobs[1].folder(root) / "weights.safetensors", jobs[0].folder(root)


@pytest.mark.slow
def test_what_ships_is_what_was_trained_and_its_card_is_measured_from_it(trained, data, tmp_path, capsys):
    results, weights, _ = trained
    folder = tmp_path / "mini-x"
    shipping.main([*map(str, (results, weights, folder)), "--candidate", CANDIDATE, "--data-dir", str(data)])
    model = load_model(folder)
    assert model.config.recipe == CANDIDATE and model.dtype == torch.float32 and not model.config.base_is_random
    from safetensors.torch import load_file

    for name, tensor in load_file(weights).items():
        assert torch.equal(model.state_dict()[name].half(), tensor), name
    card = read_json(folder / "card.json")
    assert card["settings"]["steps"] == 2 and [row["candidate"] for row in card["tried"]] == ["plain", CANDIDATE]
    assert shipping.markdown(card) == (folder / "README.md").read_text(encoding="utf-8")
    assert "# mini-x" in (folder / "README.md").read_text(encoding="utf-8")
    assert main(["card", str(folder), "--data-dir", str(data)]) == 0, "measured again, it is the same"
    assert capsys.readouterr().out.count(" card ") == 16


@pytest.mark.slow
def test_other_weights_other_texts_and_runs_that_are_not_there_are_refused(trained, data, tmp_path):
    results, weights, plain = trained
    for candidate, file, message in (
        ("curve3", weights, "no run of 'curve3'"),
        (CANDIDATE, plain / "weights.safetensors", "other tensors"),
    ):
        with pytest.raises(CurvekitError, match=message):
            shipping.ship(results, file, tmp_path / "out", candidate, data, announce=lambda _: None)
    (data / "wikitext-2" / "test.txt").write_text(" = Other = \n\n Another text .\n\n", encoding="utf-8")
    with pytest.raises(CurvekitError, match="other test texts"):
        shipping.ship(results, weights, tmp_path / "out", CANDIDATE, data, announce=lambda _: None)
    assert not (tmp_path / "out").exists()
