"""What the tests of widgets share: models that take their time, count their tokens and fail where they are told to."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel


class Slow(GPT2LMHeadModel):
    """Takes a while for a token, counts them, and fails at one."""

    pause, fails_at, calls = 0.0, None, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        time.sleep(self.pause)
        if self.calls == self.fails_at:
            raise RuntimeError("the model <b>broke</b>")
        return super().forward(*args, **kwargs)


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture
def model(tiny_base):
    return Slow.from_pretrained(tiny_base).eval()


@pytest.fixture
def voices(model, tokenizer):
    return {"gpt2": (model, tokenizer)}


@pytest.fixture
def two(model, tokenizer, tiny_base):
    other = Slow.from_pretrained(tiny_base).eval()
    torch.manual_seed(1)
    for parameter in other.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return {"gpt2": (model, tokenizer), "curve": (other, tokenizer)}
