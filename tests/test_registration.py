"""After a bare ``import curvekit`` transformers opens its models, in whichever order the two are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from curvekit.modeling import ARCHITECTURES
from curvekit.registration import CONFIGURATIONS
from curvekit.t5 import SEQ2SEQ


@pytest.fixture(scope="module")
def saved(tiny_bases, tiny_encoder, tiny_tokenizer, tmp_path_factory):
    """The folder of a saved curve model, with its tokenizer, for an architecture."""
    from tiny import builder

    def save(architecture: str):
        folder = tmp_path_factory.mktemp(f"saved-{architecture}")
        builder(tiny_bases[architecture], tiny_encoder, tiny_tokenizer)("curve").save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save


def run(code: str, *arguments) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


OPEN = """
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder)
assert type(model).__module__ == "curvekit.modeling" and model.base_model.curve is not None
assert type(AutoModel.from_pretrained(folder)) is type(model.base_model)
assert type(AutoConfig.from_pretrained(folder)) is type(model.config)
assert type(AutoConfig.for_model(model.config.model_type)) is type(model.config)
assert AutoTokenizer.from_pretrained(folder)("The river")["input_ids"]
print(pipeline("text-generation", model=folder)("The river", max_new_tokens=3)[0]["generated_text"])
"""
AUTO = "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline"


@pytest.mark.parametrize(
    ("architecture", "first"),
    [("gpt2", "transformers"), ("gpt2", "curvekit"), ("gpt_neo", "curvekit"), ("llama", "curvekit")],
)
def test_transformers_opens_a_saved_model(saved, architecture, first):
    imports = ["import curvekit", AUTO] if first == "curvekit" else [AUTO, "import curvekit"]
    assert run("\n".join(["import sys", *imports, OPEN]), saved(architecture)).startswith("The river")


@pytest.mark.parametrize("ask", ["AutoModel", "AutoTokenizer"])
def test_each_auto_class_may_be_the_first(saved, ask):
    run(f"import sys, curvekit, transformers\ntransformers.{ask}.from_pretrained(sys.argv[1])", saved("gpt2"))


def test_the_config_opened_first_is_the_models_own(saved):
    code = (
        "import sys, curvekit\nfrom transformers import AutoConfig, AutoModelForCausalLM\n"
        "config = AutoConfig.from_pretrained(sys.argv[1])\n"
        "from curvekit.configuration import CurveGPT2Config\nassert type(config) is CurveGPT2Config\n"
        "AutoModelForCausalLM.from_config(config)"
    )
    run(code, saved("gpt2"))


def test_many_threads_at_once_open_it(saved):
    code = (
        "import sys, threading, curvekit, transformers\nfound, start = [], threading.Barrier(6)\n"
        "def load(number):\n    start.wait()\n"
        "    if number % 3 == 0:\n        import curvekit.modeling\n"
        "    found.append(type(transformers.AutoConfig.from_pretrained(sys.argv[1])).__name__)\n"
        "threads = [threading.Thread(target=load, args=(n,), daemon=True) for n in range(6)]\n"
        "[t.start() for t in threads]\n[t.join(120) for t in threads]\n"
        "assert found == ['CurveGPT2Config'] * 6, found"
    )
    run(code, saved("gpt2"))


def test_importing_the_registry_loads_no_model():
    code = (
        "import sys, curvekit\nfrom transformers.models.auto.configuration_auto import CONFIG_MAPPING\n"
        "assert 'curve_llama' in CONFIG_MAPPING and 'curvekit.modeling' not in sys.modules"
    )
    run(code)


def test_the_stand_ins_are_all_there_are():
    assert {row.config.model_type: row.config.__name__ for row in (ARCHITECTURES | SEQ2SEQ).values()} == CONFIGURATIONS
