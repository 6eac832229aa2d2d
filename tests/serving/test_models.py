"""What a service can be started with: a base, a run, a recipe's folder, an adapter, each by its name."""

from __future__ import annotations

import json

import httpx
import pytest
from tiny import builder

from curvekit.bases.adapters import Lora, add_adapter, save_adapter
from curvekit.bases.hub import located
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.generation.streams import generate
from curvekit.serving import serve

# Models of random weights score all tokens nearly alike: only far below temperature 1 do their texts tell them apart.
SETTINGS = {"max_new_tokens": 30, "temperature": 0.1, "top_p": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def folders(tiny_bases, tiny_encoder, tiny_tokenizer, tmp_path_factory):
    """A run, a recipe's folder, an adapter with a curve of its own, and a LLaMA."""
    import torch

    folder = tmp_path_factory.mktemp("models")
    build = builder(tiny_bases["gpt2"], tiny_encoder, tiny_tokenizer)
    run = folder / "run-seed0"
    for where, recipe in ((run / "model", "softemax"), (folder / "curved", "curve")):
        build(recipe).save_pretrained(where)
        tiny_tokenizer.save_pretrained(where)
    (run / "config.json").write_text(json.dumps({"recipe": "softemax", "base": str(tiny_bases["gpt2"])}))
    adapted = add_adapter(build("curve"), str(tiny_bases["gpt2"]), Lora(rank=2))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_adapter(adapted, folder / "adapter")
    tiny_tokenizer.save_pretrained(folder / "adapter")
    return {
        "run": run, "curved": folder / "curved", "adapter": folder / "adapter", tiny_bases["llama"].name:
        tiny_bases["llama"], "mini": "mini",
    }  # fmt: skip


def test_bases_runs_and_adapters_are_served_by_name_each_with_its_own_text(folders):
    with serve(*folders.values()) as url:
        cards = {each["id"]: each["curvekit"] for each in httpx.get(f"{url}/v1/models", timeout=60).json()["data"]}
        assert list(cards) == list(folders)
        assert [cards[name]["recipe"] for name in ("run", "curved", "adapter", "mini")] == [
            "softemax", "curve", "curve", "gpt2",
        ]  # fmt: skip
        assert "curve" in cards["adapter"]["what"].lower() and not cards["adapter"]["leaks"]
        texts = {}
        for name in folders:
            body = {"prompt": "The river", "model": name, **SETTINGS}
            answer = httpx.post(f"{url}/generate", json=body, timeout=60).json()
            assert answer["model"] == name
            texts[name] = answer["continuation"]
    for name, folder in folders.items():
        assert texts[name] == generate(*open_model(folder), ["The river"], **SETTINGS)[0], name
    assert texts["adapter"] != texts["curved"], "its matrices take part"


@pytest.mark.slow
def test_smollm2_chats_by_its_own_template():
    try:
        located("smollm2")
    except CurvekitError as error:
        pytest.skip(str(error))
    ask = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
    with serve("smollm2") as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=ask | {"max_tokens": 30}, timeout=300).json()
    (choice,) = answer["choices"]
    assert "Paris" in choice["message"]["content"] and choice["finish_reason"] == "stop"


def test_a_model_given_twice_or_none_is_a_sentence():
    with pytest.raises(CurvekitError, match="given twice"), serve("mini", "mini"):
        pass
    with pytest.raises(CurvekitError, match="name a model"), serve():
        pass
