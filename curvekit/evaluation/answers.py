"""How right answers are: SQuAD's exact match and F1, ROUGE and chrF against several references, answers by choice.

Each judge gives a figure for every item, 0 to 1, and figures of all items together, 0 to 100 as the field prints them;
where an item has several references, its figure is that of the best of them. Nothing here loads a model.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import text_metrics
from curvekit.evaluation.scripts import WordTokenizer, words
from curvekit.text.tasks import Example, Task

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")

Items = list[dict[str, float]]


def normalised(text: str) -> str:
    """SQuAD's normal form: lower case, without ASCII punctuation, without a, an, the, and single spaces.

    Source: Rajpurkar et al. 2016, evaluate-v1.1.py and v2.0.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 where both have the same normal form, else 0."""
    return float(normalised(prediction) == normalised(reference))


def f1(prediction: str, reference: str) -> float:
    """2 P R / (P + R) of the words of both normal forms, each counted as often as it stands; of no words, whether both
    have none."""
    ours, theirs = normalised(prediction).split(), normalised(reference).split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * same / (len(ours) + len(theirs))


def best(figure: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    """The figure against the reference that it is nearest to."""
    return max(figure(prediction, reference) for reference in references)


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut behind full stops, question and exclamation marks."""
    return [part for part in _SENTENCE.split(" ".join(text.split())) if part]


def judge(task: Task, predictions: Sequence[str], examples: Sequence[Example]) -> tuple[dict[str, Any], Items]:
    """The figures of all answers together, and those of each.

    Of every kind: ``words`` is the mean length of the answers, ``signatures`` how each figure was computed. ``answer``:
    ``exact_match``, ``f1``; ``choice``: ``accuracy``; ``summary``: ``rouge1/2/L/Lsum`` (mean F1, words of any
    script), ``chrf`` (sacrebleu, of the corpus) and ``length_ratio``; ``dialogue``: ``bleu``, ``chrf``,
    ``distinct_1/2/3``, ``repetition_4``.

    Raises:
        CurvekitError: not as many answers as examples, or none.
    """
    if len(predictions) != len(examples) or not examples:
        raise CurvekitError(f"{len(predictions)} answers do not belong to {len(examples)} examples; give one of each")
    figures, items = _JUDGES[task.kind](predictions, examples)
    lengths = [len(words(text)) for text in predictions]
    return {**figures, "words": sum(lengths) / len(lengths)}, items


def _answers(predictions: Sequence[str], examples: Sequence[Example]) -> tuple[dict[str, Any], Items]:
    items = [
        {"exact_match": best(exact_match, text, each.references), "f1": best(f1, text, each.references)}
        for text, each in zip(predictions, examples, strict=True)
    ]
    return {**_means(items), "signatures": {"f1": "words|norm:squad|refs:best|mean of items"}}, items


def _choices(predictions: Sequence[str], examples: Sequence[Example]) -> tuple[dict[str, Any], Items]:
    items = [{"accuracy": float(text == each.target)} for text, each in zip(predictions, examples, strict=True)]
    return {**_means(items), "signatures": {"accuracy": "likeliest answer"}}, items


def _summaries(predictions: Sequence[str], examples: Sequence[Example]) -> tuple[dict[str, Any], Items]:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import CHRF

    scorer = RougeScorer(list(ROUGE), tokenizer=WordTokenizer())
    lines = ["\n".join(sentences(text)) for text in predictions]
    items: Items = []
    chrf = CHRF()
    for line, text, each in zip(lines, predictions, examples, strict=True):
        scores = [scorer.score("\n".join(sentences(reference)), line) for reference in each.references]
        item = {name: max(score[name].fmeasure for score in scores) for name in ROUGE}
        items.append(item | {"chrf": chrf.sentence_score(text, list(each.references)).score / 100})
    corpus = chrf.corpus_score(list(predictions), _columns(examples)).score
    size = lambda text: len(words(text))  # noqa: E731
    wanted = sum(min((size(r) for r in each.references), default=0) for each in examples)
    figures = _means(items) | {
        "chrf": corpus,
        "length_ratio": sum(map(size, predictions)) / max(1, wanted),
        "signatures": {
            "rouge": f"f1:mean|refs:best|tok:unicode|stem:no|sentences:punctuation|version:{version('rouge_score')}",
            "chrf": str(chrf.get_signature()),
        },
    }
    return figures, items


def _dialogues(predictions: Sequence[str], examples: Sequence[Example]) -> tuple[dict[str, Any], Items]:
    from sacrebleu.metrics import CHRF

    texts = text_metrics(predictions, [each.target for each in examples], length=8)
    chrf = CHRF()
    pairs = zip(predictions, examples, strict=True)
    items = [{"chrf": chrf.sentence_score(text, [each.target]).score / 100} for text, each in pairs]
    kept = ("bleu", "chrf", "distinct_1", "distinct_2", "distinct_3", "repetition_4", "signatures")
    return {name: texts[name] for name in kept}, items


_JUDGES = {"answer": _answers, "choice": _choices, "summary": _summaries, "dialogue": _dialogues}


def _means(items: Items) -> dict[str, Any]:
    return {name: 100 * sum(item[name] for item in items) / len(items) for name in items[0]}


def _columns(examples: Sequence[Example]) -> Any:
    """References as sacrebleu takes them: a list for each place, None where an item has fewer."""
    most = max(len(each.references) for each in examples)
    return [[each.references[i] if i < len(each.references) else None for each in examples] for i in range(most)]


def baselines(task: Task, train: Sequence[Example]) -> dict[str, Callable[[Example], str]]:
    """What answers without a model: ``majority`` says the commonest answer of training; ``lead`` copies the first
    sentence of what is read, ``echo`` what was said last."""
    common = Counter(each.target for each in train).most_common(1)
    found: dict[str, Callable[[Example], str]] = {}
    if common:
        found["majority"] = partial(_said, common[0][0])
    if task.kind == "dialogue":
        found["echo"] = lambda example: example.turns[-2].text
    elif task.kind != "choice" and task.cut:
        found["lead"] = lambda example: next(iter(sentences(example.fields[str(task.cut)])), "")
    return found


def _said(text: str, example: Example) -> str:
    return text
