"""How good a language model is, and how its texts read: metrics, each with its signature.

Perplexities come from per-token log-probabilities, each token scored exactly once and counted once. Nothing
averages averages: the published recipes that do are kept as tests.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import curvekit
from curvekit.causality import warn_if_leaking
from curvekit.errors import CurvekitError
from curvekit.evaluation.scripts import WordTokenizer, bleu_tokenizer
from curvekit.files import by_name, finite
from curvekit.modes import evaluating
from curvekit.shapes import require
from curvekit.text.tokenization import encodable, start_token

DENOMINATORS = "whitespace words and UTF-8 bytes of the original text"


class Window(NamedTuple):
    """What the model reads, inputs ``begin`` to ``end``, and the first position whose next token counts."""

    begin: int
    end: int
    scored: int


def windows(length: int, context: int, stride: int) -> list[Window]:
    """Cut ``length`` predictions into windows of at most ``context`` inputs; each prediction counts once.

    The first window scores all it reads. Each later one scores the next ``stride`` positions, or the few that
    are left, and reaches back as far as ``context`` allows: every token is predicted from more than
    ``context - stride`` inputs, wherever the document has them (lm-evaluation-harness's rolling windows).
    """
    end = min(context, length)
    cut = [Window(0, end, 0)] if length else []
    while end < length:
        scored, end = end, min(end + stride, length)
        cut.append(Window(end - context, end, scored))
    return cut


def _perplexity(nll: float, count: float) -> float:
    """exp(nll / count): infinite where a double cannot hold it, not a number where nothing was counted."""
    if not count or math.isnan(nll):
        return math.nan
    return math.exp(nll / count) if nll / count < 709.0 else math.inf


class TokenScores(NamedTuple):
    """The scored tokens of one window of a document, of which the first stands at ``begin``; arrays (tokens,).

    ``nll`` in nats; ``confidences``: the probability of the token ranked first; ``hits``: whether that is the true one.
    """

    document: int
    begin: int
    ids: np.ndarray
    nll: np.ndarray
    confidences: np.ndarray
    hits: np.ndarray


@dataclass(eq=False)
class LanguageModelScore:
    """Sums per document, from which every language-model metric follows.

    Attributes:
        nll: negative log-likelihood of each document in nats, float64 (documents,).
        tokens, correct: tokens scored, and those of them the model ranked first, int64 (documents,).
        words, bytes: whitespace words and UTF-8 bytes of the original texts, int64 (documents,).
        leaks: the model can see the tokens it predicts, so that no figure here is comparable.
        signature: what the figures depend on; two scores compare only where these agree in all but model and recipe.
        token_nll: for the first documents, ``{"tokens": [str, ...], "nll": [float, ...]}`` each.
    """

    nll: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray
    words: np.ndarray
    bytes: np.ndarray
    leaks: bool = False
    signature: dict[str, Any] = field(default_factory=dict)
    token_nll: list[dict[str, list]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nll = np.asarray(self.nll, dtype=np.float64)
        for name in ("tokens", "correct", "words", "bytes"):
            setattr(self, name, np.asarray(getattr(self, name), dtype=np.int64))

    @property
    def loss(self) -> float:
        """Nats a token: total negative log-likelihood / total scored tokens."""
        return float(self.nll.sum() / self.tokens.sum()) if self.tokens.sum() else math.nan

    @property
    def perplexity(self) -> float:
        """exp(nats a token); comparable only between models of one tokenizer."""
        return _perplexity(float(self.nll.sum()), int(self.tokens.sum()))

    @property
    def word_perplexity(self) -> float:
        """exp(total negative log-likelihood / words of the original text); comparable across tokenizers."""
        return _perplexity(float(self.nll.sum()), int(self.words.sum()))

    @property
    def bits_per_byte(self) -> float:
        """Total negative log-likelihood / (ln 2 * UTF-8 bytes of the original text)."""
        return float(self.nll.sum() / (math.log(2) * self.bytes.sum())) if self.bytes.sum() else math.nan

    @property
    def token_accuracy(self) -> float:
        """Share of scored tokens that the model ranked first."""
        return float(self.correct.sum() / self.tokens.sum()) if self.tokens.sum() else math.nan

    def signature_string(self) -> str:
        """The signature on one line, as ``key:value|key:value``."""
        return "|".join(f"{key}:{value}" for key, value in self.signature.items())

    def to_dict(self) -> dict[str, Any]:
        """The metrics, then the arrays as lists. JSON has no NaN or infinity: they become ``None``."""
        metrics = {
            name: finite(getattr(self, name))
            for name in ("loss", "perplexity", "word_perplexity", "bits_per_byte", "token_accuracy")
        }
        arrays = {name: getattr(self, name).tolist() for name in ("tokens", "correct", "words", "bytes")}
        kept = [{**document, "nll": [finite(x) for x in document["nll"]]} for document in self.token_nll]
        return {
            **metrics,
            "leaks": self.leaks,
            "signature": self.signature,
            "nll": [finite(x) for x in self.nll.tolist()],
            **arrays,
            "token_nll": kept,
        }

    def published(self) -> dict[str, Any]:
        """As :meth:`to_dict`, for others to read: nats to four places, and no folder of this machine."""
        signature = {name: by_name(value) for name, value in self.signature.items()}
        nats = [finite(x) for x in np.round(self.nll, 4).tolist()]
        return self.to_dict() | {"nll": nats, "signature": signature}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], source: object = "this score") -> LanguageModelScore:
        """Undo ``to_dict``; the metrics are computed anew from the arrays.

        Raises:
            CurvekitError: what ``source`` holds is no score, with the field that says so.
        """
        require(value, SCORE, source)
        lengths = {name: len(value[name]) for name in ("nll", *_COUNTS)}
        kept = [len(document["tokens"]) == len(document["nll"]) for document in value["token_nll"]]
        if len(set(lengths.values())) > 1 or not all(kept):
            told = ", ".join(f"{name} of {length}" for name, length in lengths.items())
            raise CurvekitError(
                f"{source}: its lists are not of the same documents ({told}); "
                "delete the run's metrics.json and give its command again"
            )
        tokens = [{**document, "nll": _floats(document["nll"])} for document in value["token_nll"]]
        nll = np.array(_floats(value["nll"]))
        return cls(nll, **{name: value[name] for name in (*_COUNTS, "leaks", "signature")}, token_nll=tokens)


_COUNTS = ("tokens", "correct", "words", "bytes")
SCORE = {
    "nll": [(float, None)],
    **{name: [int] for name in _COUNTS},
    "leaks": bool,
    "signature": dict,
    "token_nll": [{"tokens": [str], "nll": [(float, None)]}],
}


def _floats(values: Iterable[float | None]) -> list[float]:
    return [math.nan if x is None else x for x in values]


def _window_sizes(model: Any, context: int | None, stride: int | None) -> tuple[int, int]:
    limits = (getattr(model.config, name, None) for name in ("max_position_embeddings", "max_context"))
    limit = min((limit for limit in limits if limit is not None), default=None)
    context = limit if context is None else context
    if context is None:
        raise CurvekitError("this model names no longest context; pass context=, in tokens")
    if context < 1 or (limit is not None and context > limit):
        raise CurvekitError(f"context {context} is beyond the model's positions: choose 1 to {limit}")
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise CurvekitError(f"stride {stride} would skip tokens: choose 1 to the context, {context}")
    return context, stride


def tokenizer_hash(tokenizer: Any) -> str:
    """What decides a text's token ids: vocabulary, merges, normaliser and pre-tokeniser, in 12 hex digits."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: Any = dict(tokenizer.get_vocab())
    if backend is not None:
        whole = json.loads(backend.to_str())
        rules = [rules, whole["model"].get("merges"), whole["normalizer"], whole["pre_tokenizer"]]
    return short_hash(json.dumps(rules, sort_keys=True, ensure_ascii=False))


def short_hash(*texts: str) -> str:
    """12 hexadecimal digits of some texts, each told apart from the next."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8") + b"\0")
    return digest.hexdigest()[:12]


def _streams(tokenizer: Any, texts: list[str], vocabulary: int | None) -> list[np.ndarray]:
    """Each document's ids after one prefix token; int32, since a corpus of Python integers would not fit."""
    prefix = start_token(tokenizer)
    encoded = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in encodable(texts))
    streams = [np.asarray([prefix, *ids], dtype=np.int32) for ids in encoded]
    highest = max((int(stream.max()) for stream in streams), default=0)
    if vocabulary is not None and highest >= vocabulary:
        raise CurvekitError(
            f"the tokenizer gave token {highest} to a model of {vocabulary}: use the model's own tokenizer"
        )
    return streams


def signed(
    model: Any, tokenizer: Any, leaks: bool, given: Mapping[str, Any] | None = None, **how: Any
) -> dict[str, Any]:
    """The signature of a score: whose it is, what is ``given`` of the texts, ``how`` it was taken, and the versions."""
    own = getattr(model.config, "registered", None)
    return {
        "model": getattr(model.config, "_name_or_path", "") or type(model).__name__,
        "recipe": getattr(model.config, "recipe", None) or "none",
        **({"registered": own} if own else {}),
        **(given or {}),
        **how,
        "tokenizer": getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "leaks": leaks,
        **{name: version(name) for name in ("torch", "transformers")},
        "curvekit": curvekit.__version__,
    }


def score_documents(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    keep_tokens: int = 0,
    signature: Mapping[str, Any] | None = None,
    progress: bool = False,
    on_tokens: Callable[[TokenScores], object] | None = None,
) -> LanguageModelScore:
    """Score every token of every document once: -log p(token | one eos token and the document so far).

    Documents are scored apart, one longer than ``context`` in strided windows (see ``windows``). The result
    is the same for every ``batch_size``: rows are padded on the right under an attention mask, and no padded
    position is read. Log-probabilities are taken in float32 or better, totals in float64. One continuous
    stream is a list with one document. Memory holds one batch of logits, at the positions that count.

    Args:
        model: a causal language model of transformers, on any device; it keeps its training mode.
        tokenizer: the model's own.
        texts: the original documents. Words are ``text.split()``, bytes are UTF-8 (lm-evaluation-harness also
            counts the empty strings at a document's edges as words). An empty document adds nothing.
        context: inputs a window, in tokens; default and limit: the model's positions.
        stride: tokens that a later window adds, 1 to ``context``, default half of it. A smaller one is slower
            and gives lower perplexities, which is why both stand in the signature.
        batch_size: windows read at once; default as many as hold 1,024 tokens on a CPU, whose caches hold no more;
            on a GPU 16,384, or what a gigabyte of logits allows.
        keep_tokens: of this many first documents keep each token's string and nats.
        signature: what only the caller knows: ``{"corpus": ..., "revision": ..., "split": ...}``.
        progress: show a bar in a terminal.
        on_tokens: is given every scored token once, in windows of any order.

    Raises:
        CurvekitError: nothing to score, a context or stride out of range, or another model's tokenizer.

    Source:
        Windows and denominators: EleutherAI, lm-evaluation-harness, ``loglikelihood_rolling``.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if getattr(model.config, "is_encoder_decoder", False):
        raise CurvekitError(
            f"a {type(model).__name__} writes a target for a source, and its documents have no probability by "
            "themselves; score targets with evaluation.targets.score_targets"
        )
    context, stride = _window_sizes(model, context, stride)
    if batch_size is not None and batch_size < 1:
        raise CurvekitError(f"batch_size {batch_size} scores nothing: choose 1 or more")
    streams = _streams(tokenizer, texts, getattr(model.config, "vocab_size", None))
    tokens = np.array([stream.size - 1 for stream in streams], dtype=np.int64)
    if not tokens.sum():
        raise CurvekitError(f"there is nothing to score: {len(texts)} documents, none with a token")
    leaks = warn_if_leaking(model)

    nll = np.zeros(len(texts))
    correct = np.zeros(len(texts), dtype=np.int64)
    kept = [np.zeros(count) for count in tokens[:keep_tokens]]
    plan = [(d, window) for d, count in enumerate(tokens) for window in windows(int(count), context, stride)]
    plan.sort(key=lambda item: (item[1].begin - item[1].end, item[1].scored - item[1].begin))  # longest first
    room = 1_024
    if next(model.parameters()).is_cuda:  # and a gigabyte of logits, for windows that score all they read
        room = min(16_384, 2**28 // getattr(model.config, "vocab_size", 2**14))
    batches = list(_batches(plan, batch_size, room))
    with evaluating(model), torch.inference_mode():
        for batch in tqdm(batches, desc="scoring", disable=None if progress else True, leave=False):
            results = _score_batch(model, [(streams[d], window) for d, window in batch])
            for (d, window), (losses, confidences, hits) in zip(batch, results, strict=True):
                nll[d] += losses.sum()
                correct[d] += hits.sum()
                if on_tokens is not None:
                    ids = streams[d][window.scored + 1 : window.end + 1]
                    on_tokens(TokenScores(d, window.scored, ids, losses, confidences, hits))
                if d < len(kept):
                    kept[d][window.scored : window.end] = losses

    return LanguageModelScore(
        nll=nll,
        tokens=tokens,
        correct=correct,
        words=np.array([len(text.split()) for text in texts]),
        bytes=np.array([len(text.encode("utf-8")) for text in texts]),
        leaks=leaks,
        signature=signed(
            model,
            tokenizer,
            leaks,
            signature,
            documents=len(texts),
            texts=short_hash(*texts),
            context=context,
            stride=stride,
            prefix="one eos token",
            denominators=DENOMINATORS,
        ),
        token_nll=[
            {"tokens": [tokenizer.decode([token]) for token in stream[1:].tolist()], "nll": losses.tolist()}
            for stream, losses in zip(streams, kept, strict=False)
        ],
    )


def _batches(plan: list[tuple[int, Window]], batch_size: int | None, room: int) -> Iterator[list[tuple[int, Window]]]:
    """Windows to read at once, of a plan that begins with the longest: ``batch_size``, or what fits ``room`` tokens."""
    start = 0
    while start < len(plan):
        longest = plan[start][1]
        size = batch_size or max(1, room // (longest.end - longest.begin))
        yield plan[start : start + size]
        start += size


def _score_batch(model: Any, rows: Sequence[tuple[np.ndarray, Window]]) -> Iterator[tuple[np.ndarray, ...]]:
    """For each (stream, window): the scored tokens' nats, the highest probabilities, and whether they were theirs."""
    longest = max(window.end - window.begin for _, window in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)  # (B, T)
    attention_mask = torch.zeros_like(input_ids)
    for row, (stream, window) in enumerate(rows):
        inputs = torch.from_numpy(stream[window.begin : window.end])
        input_ids[row, : len(inputs)] = inputs
        attention_mask[row, : len(inputs)] = 1

    options = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = longest - min(window.scored - window.begin for _, window in rows)
    device = next(model.parameters()).device
    logits = model(
        input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), use_cache=False, **options
    ).logits  # (B, at most T, V)
    dropped = longest - logits.shape[1]
    precision = torch.promote_types(logits.dtype, torch.float32)
    for scores, (stream, window) in zip(logits, rows, strict=True):
        first = window.begin + dropped
        scores = scores[window.scored - first : window.end - first].to(precision)  # (scored, V)
        targets = torch.from_numpy(stream[window.scored + 1 : window.end + 1]).to(device, torch.long)
        losses = F.cross_entropy(scores, targets, reduction="none")
        highest, ranked = scores.max(-1)
        own = scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        confidences = (highest - own - losses).exp()  # -losses = own - logsumexp
        yield tuple(each.cpu().numpy() for each in (losses.double(), confidences.double(), ranked == targets))


def text_metrics(
    hypotheses: Sequence[str], references: Sequence[str], *, stem: bool = False, length: int | None = None
) -> dict[str, Any]:
    """Compare generated texts with the true ones, and with one another.

    Args:
        hypotheses, references: texts in pairs; a text may be empty.
        stem: stem words (Porter) before ROUGE.
        length: words, or characters where a script has no spaces, at which diversity is measured; shorter texts are
            left out of it. Default: the shortest text that is not empty. Diversity falls with length, so compare it
            only at equal lengths.

    Returns:
        ``bleu``, ``chrf``: sacrebleu's corpus scores, 0 to 100, which no mean of sentence scores equals.
        Scripts without spaces are cut by sacrebleu's ``zh`` or ``char``; of texts that all have fewer than four
        words, BLEU is that of the orders there are (``eff:yes``).
        ``rouge1``, ``rouge2``, ``rougeL``: mean F1 over the pairs, 0 to 100, of words of any script.
        ``distinct_1/2/3``: distinct n-grams / n-grams, over all texts, 0 to 1 (Li et al. 2016).
        ``repetition_4``: share of a text's 4-grams that repeat an earlier one, mean over texts, 0 to 1
        (seq-rep-4 of Welleck et al. 2020).
        ``self_bleu``: mean BLEU of each text against all others, 0 to 100, low if diverse (Zhu et al. 2018).
        ``signatures``: how each was computed, as strings. A figure that is not defined is ``None``.

    Raises:
        CurvekitError: no texts, or not as many references as hypotheses.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    hypotheses, references = list(hypotheses), list(references)
    if not hypotheses or len(hypotheses) != len(references):
        raise CurvekitError(
            f"{len(hypotheses)} hypotheses and {len(references)} references are not pairs; give one of each"
        )
    cut = bleu_tokenizer(references)  # of the true texts alone: what a model writes must not choose its own yardstick
    chrf = CHRF()
    bleu = BLEU(tokenize=cut, force=True)  # force: no warning about texts that already come cut into tokens
    found = bleu.corpus_score(hypotheses, [references])
    if not found.totals[-1]:  # no text has four words: 0 would say nothing of them
        bleu = BLEU(tokenize=cut, force=True, effective_order=True)
        found = bleu.corpus_score(hypotheses, [references])
    rouge_names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(rouge_names), tokenizer=WordTokenizer(stem))
    rouge = [scorer.score(r, h) for h, r in zip(hypotheses, references, strict=True)]
    figures = {
        "bleu": found.score,
        "chrf": chrf.corpus_score(hypotheses, [references]).score,
        **{name: 100 * sum(pair[name].fmeasure for pair in rouge) / len(rouge) for name in rouge_names},
    }
    diversity, described = _diversity(hypotheses, length, spaces=cut == "13a")
    return {
        **figures,
        **diversity,
        "signatures": {
            "bleu": str(bleu.get_signature()),
            "chrf": str(chrf.get_signature()),
            "rouge": f"f1:mean|tok:unicode|stem:{'yes' if stem else 'no'}|version:{version('rouge_score')}",
            "diversity": described,
        },
    }


def diversity(texts: Sequence[str], length: int | None = None) -> dict[str, float | None]:
    """The figures of :func:`text_metrics` that compare texts with one another alone, of whitespace words."""
    return _diversity(texts, length)[0]


def _diversity(texts: Sequence[str], length: int | None, spaces: bool = True) -> tuple[dict[str, float | None], str]:
    """Of whitespace words, or of the characters of scripts without spaces."""
    from sacrebleu.metrics import BLEU

    parts = [text.split() if spaces else list("".join(text.split())) for text in texts]
    if length is None:
        length = min((len(words) for words in parts if words), default=0)
    cut = [words[:length] for words in parts if len(words) >= max(length, 1)]
    figures: dict[str, float | None] = {}
    for n in (1, 2, 3):
        pooled = [gram for words in cut for gram in _ngrams(words, n)]
        figures[f"distinct_{n}"] = len(set(pooled)) / len(pooled) if pooled else None
    repeated = [1 - len(Counter(grams)) / len(grams) for words in cut if (grams := _ngrams(words, 4))]
    figures["repetition_4"] = sum(repeated) / len(repeated) if repeated else None

    bleu = BLEU(effective_order=True, force=True)
    joined = [" ".join(words) for words in cut]
    figures["self_bleu"] = None
    if len(joined) > 1:
        alike = [bleu.sentence_score(text, joined[:i] + joined[i + 1 :]).score for i, text in enumerate(joined)]
        figures["self_bleu"] = sum(alike) / len(alike)
    return figures, f"words:{'whitespace' if spaces else 'characters'}|length:{length}|texts:{len(cut)} of {len(texts)}"


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False))
