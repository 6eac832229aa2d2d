"""Rows of perplexity: one stream of text, beside Hugging Face's strided recipe and lm-evaluation-harness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Case, Different, Goal, Settings
from benchmarks.models import SHAPES, pair
from benchmarks.texts import beginning, corpus, tokenizer
from curvekit.evaluation.harness import model_class
from curvekit.evaluation.metrics import score_documents, windows


@torch.no_grad()
def recipe(model: Any, tokenizer: Any, text: str, context: int, stride: int) -> tuple[float, int]:
    """Perplexity as Hugging Face's page on it computes it, and over how many tokens it believes it does.

    A window's loss averages what is scored in it; the recipe multiplies it by one token less than that in each window
    but the first, where the first token has no prediction.
    """
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False)["input_ids"].to(model.device)
    total, counted, before = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + context, ids.shape[1])
        new = end - before
        window = ids[:, begin:end]
        labels = window.clone()
        labels[:, :-new] = -100
        tokens = int((labels != -100).sum()) - 1
        total += float(model(window, labels=labels).loss) * tokens
        counted, before = counted + tokens, end
        if end == ids.shape[1]:
            break
    return math.exp(total / counted), counted


@torch.no_grad()
def exact(model: Any, tokenizer: Any, text: str, context: int, stride: int) -> float:
    """Perplexity as its definition reads: every token's log-probability, once, in float64."""
    stream = [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    total = 0.0
    for window in windows(len(stream) - 1, context, stride):
        inputs = torch.tensor([stream[window.begin : window.end]], device=model.device)
        scores = model(inputs).logits[0].double().log_softmax(-1)
        for place in range(window.scored, window.end):
            total -= float(scores[place - window.begin, stream[place + 1]])
    return math.exp(total / (len(stream) - 1))


def cases(settings: Settings) -> Iterator[Case]:
    words = tokenizer()
    name = "tiny" if settings.quick else "124M" if settings.cuda else "mini"
    shape = SHAPES[name] | {"vocab_size": len(words)}
    context = shape["n_positions"]
    ours, peer = pair("gpt2", shape, settings)
    text = beginning(settings, "test", 2_000 if settings.quick else 1_200_000 if settings.cuda else 40_000)
    tokens = len(words(text, add_special_tokens=False, verbose=False)["input_ids"])

    def check() -> str:
        short = text[: 12 * context]  # some windows tell as much as all
        mine = score_documents(ours, words, [short], context=context, stride=context // 2)
        truth = exact(peer, words, short, context, context // 2)
        theirs, counted = recipe(peer, words, short, context, context // 2)
        if abs(mine.perplexity / truth - 1) > 1e-5:
            raise Different(f"ours is {mine.perplexity:.4f}, the sum over tokens gives {truth:.4f}")
        return (
            f"on its beginning ours is {mine.perplexity:.3f} over {mine.tokens.sum()} tokens, the definition "
            f"{truth:.3f}; the recipe says {theirs:.3f}, weighing {counted} tokens, and so differs, as it should"
        )

    yield Case(
        f"{corpus(settings.data_dir)[0]}, {name}, context {context}, stride {context // 2}",
        "score_documents",
        "Hugging Face's strided recipe",
        lambda: score_documents(ours, words, [text], context=context, stride=context // 2),
        lambda: recipe(peer, words, text, context, context // 2),
        check,
        Goal("ratio", 1.15),
        work=tokens,
        unit="tokens",
        seconds=20.0,
    )
    yield _rolling(ours, peer, words, text, context, tokens, settings)


def _rolling(ours: Any, peer: Any, words: Any, text: str, context: int, tokens: int, settings: Settings) -> Case:
    """Windows that do not overlap, as the harness cuts them, in batches of as many tokens as ours on either device."""
    harness = model_class()
    from lm_eval.api.instance import Instance

    batch = max(1, (16_384 if settings.cuda else 1_024) // context)
    theirs = harness(peer, tokenizer=words, max_length=context, batch_size=batch)
    theirs._loglikelihood_tokens = partial(theirs._loglikelihood_tokens, disable_tqdm=True)
    request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)

    def rolling() -> float:
        return -float(theirs.loglikelihood_rolling([request], disable_tqdm=True)[0])

    def check() -> str:
        mine, other = score_documents(ours, words, [text], context=context, stride=context).nll.sum(), rolling()
        if abs(mine / other - 1) > 1e-4:
            raise Different(f"ours is {mine:.2f} nats, the harness's {other:.2f}")
        return f"{mine:.1f} and {other:.1f} nats"

    return Case(
        f"{corpus(settings.data_dir)[0]}, context {context}, windows side by side",
        "score_documents",
        "lm-evaluation-harness's rolling log-likelihood",
        lambda: score_documents(ours, words, [text], context=context, stride=context),
        rolling,
        check,
        Goal("ratio", 2.0),
        work=tokens,
        unit="tokens",
        seconds=20.0,
    )
