"""The command ``merge``: a whole model that computes as its adapter did, with the change that it says."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.modeling import ARCHITECTURES


@pytest.fixture(scope="module", params=ARCHITECTURES)
def adapted(request, tiny_bases, tiny_corpus, tiny_encoder, tmp_path_factory) -> Path:
    """A finished run with an adapter, of each architecture; read it, do not write there."""
    folder = tmp_path_factory.mktemp("adapted") / "run"
    argv = ["train", "--recipe", "curve", "--base", tiny_bases[request.param], "--corpus", tiny_corpus, "--encoder",
            tiny_encoder, "--adapter", "lora", "--steps", 3, "--learning-rate", 0.05, "--block-size", 32,
            "--batch-size", 2, "--eval-every", 3, "--sample-prompts", 2, "--prompt-tokens", 8, "--sample-tokens", 8,
            "--precision", "float32", "--out", folder]  # fmt: skip
    assert main([str(word) for word in argv]) == 0
    return folder


def logits(folder: Path, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.no_grad():
        return open_model(folder)[0].to(dtype)(ids, use_cache=False).logits.double()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def shown(name: str, text: str) -> tuple[float, float]:
    change, kl = re.search(rf"^{name} .*in a logit (\S+), KL (\S+) nats", text, re.M).groups()
    return float(change), float(kl)


def test_the_merged_model_computes_as_the_adapter_did_and_the_report_is_what_was_measured(adapted, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("The river was low in summer, and a bank is also the side of a river.")
    capsys.readouterr()
    argv = ["merge", adapted, tmp_path / "whole", "--text", text, "--cast", "bfloat16"]
    assert main([str(word) for word in argv]) == 0
    printed = capsys.readouterr().out
    model, tokenizer = open_model(tmp_path / "whole")
    assert not hasattr(model, "peft_config") and (tmp_path / "whole" / "model.safetensors").exists()
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text.read_text())["input_ids"]]])
    before, after = logits(adapted, ids), logits(tmp_path / "whole", ids)
    cast = logits(tmp_path / "whole", ids, torch.bfloat16)
    assert (before - after).abs().max() < 1e-4
    for name, other in (("merged", after), ("cast", cast)):
        p, q = before.log_softmax(-1), other.log_softmax(-1)
        expected = (before - other).abs().max().item(), (p.exp() * (p - q)).sum(-1).mean().item()
        assert shown(name, printed) == pytest.approx(expected, rel=0.01, abs=1e-12), name
    assert shown("cast", printed)[0] > 10 * shown("merged", printed)[0]
    saved = json.loads((tmp_path / "whole" / "merge.json").read_text())
    assert saved["tokens"] == ids.shape[1] and 0 < saved["cast"]["unmoved"] < 1
    assert f"{saved['cast']['unmoved']:.1%}" in printed


def test_without_a_text_the_runs_own_held_out_text_is_read(adapted, tmp_path, capsys):
    assert main(["merge", str(adapted), str(tmp_path / "one")]) == 0
    assert main(["merge", str(adapted / "model"), str(tmp_path / "two")]) == 0
    one, two = (json.loads((tmp_path / name / "merge.json").read_text()) for name in ("one", "two"))
    assert one == two and one["tokens"] > 16 and "cast" not in one
    assert digests(tmp_path / "one")["model.safetensors"] == digests(tmp_path / "two")["model.safetensors"]


def test_nothing_foreign_is_replaced_and_a_merged_model_is(adapted, tmp_path, capsys):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    for out in (foreign, adapted, adapted / "model", foreign / "thesis.txt"):
        assert main(["merge", str(adapted), str(out)]) == 2
        assert "something else than a merged model" in capsys.readouterr().err
    assert digests(foreign).keys() == {"thesis.txt"}
    out = tmp_path / "whole"
    out.mkdir()
    assert main(["merge", str(adapted), str(out)]) == 0  # an empty folder is nobody's
    (out / "left-over.txt").write_text("of an older version")
    assert main(["merge", str(adapted), str(out)]) == 0
    assert not (out / "left-over.txt").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_failure_leaves_what_was_there(adapted, tmp_path, capsys, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    out = tmp_path / "whole"
    assert main(["merge", str(adapted), str(out)]) == 0
    before = digests(out)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", full)
    assert main(["merge", str(adapted), str(out)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert main(["merge", str(adapted), str(tmp_path / "new")]) == 2
    assert digests(out) == before and [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_half_precision_is_refused_with_the_reason(adapted, tmp_path, capsys, half):
    assert main(["merge", str(adapted), str(tmp_path / "whole"), "--dtype", half]) == 2
    said = capsys.readouterr().err
    assert "unmoved" in said and "float32" in said and f"--cast {half}" in said and not (tmp_path / "whole").exists()


def test_a_whole_model_and_an_unknown_one_are_refused(trained, tmp_path, capsys):
    assert main(["merge", str(trained["gpt2"]), str(tmp_path / "whole")]) == 2
    assert "no adapter" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "none"), str(tmp_path / "whole")]) == 2
    assert main(["merge", str(trained["gpt2"]), str(tmp_path / "whole"), "--text", str(tmp_path / "none.txt")]) == 2
    assert not (tmp_path / "whole").exists()


def test_a_merged_model_is_a_base_without_its_run(adapted, tmp_path, capsys):
    copy = shutil.copytree(adapted, tmp_path / "run")
    assert main(["merge", str(copy), str(tmp_path / "whole")]) == 0
    ids = torch.arange(1, 20)[None]
    before = logits(copy, ids)
    shutil.rmtree(copy)
    assert (logits(tmp_path / "whole", ids) - before).abs().max() < 1e-4
