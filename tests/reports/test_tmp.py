"""Temporary: two notebooks alone."""
from curvekit.reports.execution import NOTEBOOKS, report
from curvekit.training.settings import RunConfig


def test_two(tiny_base, tiny_corpus, tmp_path):
    config = RunConfig(
        base=str(tiny_base), corpus=str(tiny_corpus), steps=6, block_size=16, batch_size=4, eval_every=3, save_every=3,
        context_eval=16, sample_prompts=2, prompt_tokens=8, sample_tokens=8, learning_rate=1e-3, recipe="plain",
    )  # fmt: skip
    small = {"tokenizers": ["characters"], "domain": str(tiny_corpus), "documents": 3}
    made = report(config, "/tmp/nbout", recipes=["gpt2"], seeds=[0], parameters=small,
                  notebooks=[NOTEBOOKS / "00_data.ipynb", NOTEBOOKS / "14_domains.ipynb"])
    print(made)
