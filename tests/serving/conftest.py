"""What the tests of serving share: a tiny model that chats, a service of it on a free port, and its client."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="session")
def talker(tiny_tokenizer):
    """A GPT-2 of 2 layers with 256 positions that never ends by itself, and a tokeniser with a chat template."""
    import copy

    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    end = tiny_tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=end,
        eos_token_id=end,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(4)
    model.generation_config.suppress_tokens = [end]
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    return model, tokenizer


@pytest.fixture(scope="session")
def voices(talker, tiny_base, tiny_tokenizer):
    from transformers import AutoModelForCausalLM

    return {"talker": talker, "tiny": (AutoModelForCausalLM.from_pretrained(tiny_base).eval(), tiny_tokenizer)}


@pytest.fixture(scope="session")
def limits():
    from curvekit.serving import Limits

    return Limits(body=100_000, body_seconds=1.0, prompt=20_000, tokens=200, rows=16, batch=8, waiting=64, seconds=60.0)


@pytest.fixture(scope="module")
def url(voices, limits):
    from curvekit.serving import serve

    with serve(voices, limits=limits) as url:
        yield url


@pytest.fixture
def client(url):
    import httpx

    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def idle(client):
    """Wait until nothing is written any more; return the seconds that took."""
    import time

    def idle(seconds: float = 5.0) -> float:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            lines = client.get("/metrics").text.splitlines()
            if all(
                line.endswith(" 0.0") for line in lines if line.startswith(("curvekit_running{", "curvekit_waiting{"))
            ):
                return time.monotonic() - began
            time.sleep(0.02)
        pytest.fail(f"something is still being written after {seconds} s")

    return idle
