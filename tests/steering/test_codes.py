"""Control codes from end to end: trained by the command, the code decides what the judge finds."""

from __future__ import annotations

import json
import random

import pytest

from curvekit.bases.opening import open_model
from curvekit.cli import main
from curvekit.errors import CurvekitError
from curvekit.generation.streams import generate
from curvekit.steering.judge import Judge

WORDS = {
    "river": ["river", "boats", "sand", "summer", "low", "water"],
    "bank": ["bank", "money", "letter", "weight", "row", "zero"],
}


def rows(count: int, seed: int) -> list[dict[str, str]]:
    dice = random.Random(seed)
    kinds = [list(WORDS)[i % 2] for i in range(count)]
    return [{"text": " ".join(dice.choices(WORDS[kind], k=12)) + ".", "label": kind} for kind in kinds]


@pytest.fixture(scope="module")
def run(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(400, 0)))
    argv = ["train", "--recipe", "gpt2", "--base", str(tiny_base), "--corpus", str(folder / "rows.jsonl")]
    argv += ["--codes", "column:label", "--steps", "120", "--learning-rate", "1e-2", "--block-size", "32"]
    argv += ["--batch-size", "8", "--eval-every", "120", "--sample-prompts", "2", "--sample-tokens", "4",
             "--prompt-tokens", "4", "--eval-documents", "4", "--examples", "padded",
             "--precision", "float32"]  # fmt: skip
    assert main([*argv, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_the_code_changes_the_verdict_of_a_judge(run):
    model, tokenizer = open_model(run)
    assert model.config.control_codes == ["bank", "river"]
    held_out = rows(200, 1)
    judge = Judge.fit([row["text"] for row in held_out[:100]], [row["label"] for row in held_out[:100]])
    assert judge.accuracy([r["text"] for r in held_out[100:]], [r["label"] for r in held_out[100:]]) > 0.95
    for code in ("river", "bank"):
        settings = {"max_new_tokens": 10, "num_return_sequences": 12, "top_p": 0.9}
        texts = generate(model, tokenizer, [""], control={"codes": [code]}, **settings)
        assert judge.verdicts(texts, code).mean() > 0.8, texts


def test_a_code_that_is_none_is_named_with_the_nearest(run):
    with pytest.raises(CurvekitError, match="unknown code 'rivr'; did you mean 'river'"):
        generate(*open_model(run), [""], max_new_tokens=2, control={"codes": ["rivr"]})


def test_the_command_takes_codes_flags_over_a_file_and_streams(run, tmp_path, capsys):
    argv = ["generate", str(run), "", "--tokens", "8", "--seed", "5"]
    assert main([*argv, "--code", "river"]) == 0
    text = capsys.readouterr().out
    path = tmp_path / "control.json"
    path.write_text(json.dumps({"codes": ["bank"], "guidance_scale": 1.5}))
    assert main([*argv, "--control", str(path), "--code", "river", "--guidance-scale", "1"]) == 0
    assert capsys.readouterr().out == text
    assert main([*argv, "--control", str(path), "--json", "--count", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main([*argv, "--control", str(tmp_path / "none.json")]) == 2
    assert "there is no" in capsys.readouterr().err
    path.write_text('{"code": ["bank"]}')
    assert main([*argv, "--control", str(path)]) == 2
    assert "did you mean 'codes'" in capsys.readouterr().err


def test_attribute_and_vector_are_made_by_commands_and_steer(run, tmp_path, capsys):
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows(60, 2)))
    attribute, vector = tmp_path / "a.safetensors", tmp_path / "v.safetensors"
    assert main(["attribute", str(run), str(table), "--test", str(table), "--out", str(attribute)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["vector", str(run), str(table), "--label", "river", "--out", str(vector)]) == 0
    argv = ["generate", str(run), "", "--tokens", "4"]
    assert main([*argv, "--attribute", str(attribute), "--label", "river"]) == 0
    assert main([*argv, "--vector", str(vector), "--vector-scale", "2"]) == 0
    capsys.readouterr()
    for given, message in (
        (["attribute", str(run), str(table), "--out", str(vector)], "is no attribute model and would be overwritten"),
        (["attribute", str(run), str(table), "--label-column", "lable", "--out", str(attribute)], "no column 'lable'"),
        (["attribute", str(run), str(table), "--most", "2", "--out", str(attribute)], "has 2 rows; give 4 or more"),
        (["vector", str(run), str(table), "--label", "sea", "--out", str(vector)], "unknown label 'sea'"),
        (["vector", str(run), str(table), "--label", "river", "--layer", "7", "--out", str(vector)], "blocks 0 to 1"),
    ):
        assert main(given) == 2
        assert message in capsys.readouterr().err
