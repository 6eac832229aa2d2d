"""lm-evaluation-harness in process: rolling perplexity and choices agree with ours, for curve recipes too."""

from __future__ import annotations

import subprocess
import sys

import pytest
from taskrows import write

from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.evaluation.tasks import ask, evaluate_task
from curvekit.text.rows import load_rows
from curvekit.text.tasks import TASKS

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'curvekit[tasks]'")


@pytest.fixture(scope="module")
def model(make):
    return make("curve+softemax").eval()


def test_its_rolling_perplexity_is_ours(model, tiny_tokenizer, tiny_texts):
    from curvekit.evaluation.harness import harness

    texts = [" ".join(tiny_texts[:4]), tiny_texts[5], tiny_texts[6]]  # the first one longer than a window
    ours = score_documents(model, tiny_tokenizer, texts, context=32, stride=32)
    found = harness(model, tiny_tokenizer, ["corpus"], texts=texts, context=32)["results"]["corpus"]
    assert found["bits_per_byte,none"] == pytest.approx(ours.bits_per_byte, rel=1e-4)
    assert found["word_perplexity,none"] == pytest.approx(ours.word_perplexity, rel=1e-2)


def test_its_choices_are_ours(model, tiny_tokenizer, tmp_path):
    from curvekit.evaluation.harness import harness

    rows = [{"context": "", "question": f"Is {n} low?", "answers": [("yes", "no")[n % 3 == 0]]} for n in range(24)]
    folder = write(tmp_path / "strategyqa", train=rows[12:], test=rows[:12])
    loaded = load_rows(TASKS["strategyqa"], data_dir=folder)
    asked = ask(model, tiny_tokenizer, loaded, room=60)
    found = harness(model, tiny_tokenizer, ["strategyqa"], data_dir=folder, context=60)["results"]["strategyqa"]
    end = tiny_tokenizer.eos_token_id  # theirs scores the labels alone, ours what ends them too, unless of one token
    if all(len(asked.prompter.continued([end], label).ids) == 3 for label in ("yes", "no")):
        assert 100 * found["acc,none"] == evaluate_task(model, asked).figures["accuracy"]
    assert 0 <= found["acc,none"] <= 1


def test_its_command_line_knows_our_models(tiny_base, tmp_path):
    argv = [sys.executable, "-m", "curvekit.evaluation.harness", "--help"]
    assert "usage" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.lower()
    from lm_eval.api.registry import get_model

    from curvekit.evaluation.harness import model_class

    made = model_class()(str(tiny_base), recipe="softemax")
    assert get_model("curvekit") is type(made) and made.max_length == 64
    assert made.model.config.recipe == "softemax"


def test_what_it_cannot_run_is_one_sentence(model, tiny_tokenizer, tmp_path):
    from curvekit.evaluation.harness import harness

    with pytest.raises(CurvekitError, match="no file .*none.yaml"):
        harness(model, tiny_tokenizer, [str(tmp_path / "none.yaml")])
    with pytest.raises(CurvekitError, match="needs texts; give a corpus"):
        harness(model, tiny_tokenizer, ["corpus"])
    with pytest.raises(CurvekitError, match="measured by its answers' perplexity"):
        folder = write(tmp_path, train=[], test=[])
        (folder / "train.jsonl").write_text(DIALOGUE.format("a") + DIALOGUE.format("b"))
        (folder / "test.jsonl").write_text(DIALOGUE.format("c"))
        harness(model, tiny_tokenizer, ["topical_chat"], data_dir=folder)


DIALOGUE = '{{"turns": [{{"role": "user", "text": "{0}"}}, {{"role": "assistant", "text": "b"}}]}}\n'
