"""lm-evaluation-harness through HTTP: a task's score is the one it gives in process."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow
lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval aiohttp")
pytest.importorskip("aiohttp", reason="lm-eval's clients need aiohttp")

TASK = """
task: banks
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{start}}}}"
doc_to_choice: "{{{{ends}}}}"
doc_to_target: "{{{{right}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
WRITING = """
task: rivers
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{start}}}}"
doc_to_target: "{{{{ends[0]}}}}"
generation_kwargs: {{max_gen_toks: 12, do_sample: false, until: ["zzzz"]}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture(scope="module")
def tasks(tiny_texts, tmp_path_factory):
    """A folder with two tasks over local rows."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = []
    for number, text in enumerate(tiny_texts[:20]):
        words = text.split()
        ends = [" " + " ".join(words[4:8]), " " + " ".join(words[10:14]), " " + " ".join(reversed(words[4:8]))]
        rows.append({"start": " ".join(words[:4]), "ends": ends, "right": number % 3})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in (("banks", TASK), ("rivers", WRITING)):
        (folder / f"{name}.yaml").write_text(task.format(file=folder / "rows.jsonl"))
    return folder


def test_a_task_scores_the_same_through_http_and_in_process(url, talker, tasks, tmp_path):
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = talker
    tokenizer.save_pretrained(tmp_path)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    remote = {
        "model": "talker", "base_url": f"{url}/v1/completions", "tokenizer": str(tmp_path),
        "tokenizer_backend": "huggingface", "max_length": 256, "num_concurrent": 4,
    }  # fmt: skip
    settings = {"tasks": ["banks", "rivers"], "task_manager": manager, "log_samples": True, "bootstrap_iters": 0}
    there = lm_eval.simple_evaluate("local-completions", model_args=remote, **settings)
    here = lm_eval.simple_evaluate(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu"), **settings)
    assert there["results"]["banks"]["acc,none"] == here["results"]["banks"]["acc,none"]
    for mine, other in zip(there["samples"]["banks"], here["samples"]["banks"], strict=True):
        for (value, greedy), (expected, same) in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
            assert float(value) == pytest.approx(float(expected), abs=1e-3) and greedy == same
    written = [sample["resps"] for sample in there["samples"]["rivers"]]
    assert written == [sample["resps"] for sample in here["samples"]["rivers"]] and written[0][0][0]
