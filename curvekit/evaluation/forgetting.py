"""What a model gains on the text that it was trained on, and what it forgets of others, each with its interval.

Fine-tuning moves weights that other texts need too. The gain and the loss are both differences from the model that the
training began with, on the same documents: a domain on which the loss rises was forgotten to that much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curvekit.errors import CurvekitError
from curvekit.evaluation.metrics import score_documents
from curvekit.evaluation.significance import SAMPLES, paired_bootstrap


def gains(
    models: Mapping[str, tuple[Any, Any]],
    domains: Mapping[str, Sequence[str]],
    baseline: str,
    context: int | None = None,
    samples: int = SAMPLES,
) -> dict[str, list[dict[str, Any]]]:
    """Difference in loss of each model from the baseline in every domain.

    Args:
        models: name -> (model, tokeniser), all of one tokeniser.
        domains: name -> held-out documents.
        baseline: the model that training began with, one of ``models``.

    Returns:
        model -> rows ``label`` (the domain), ``tokens``, ``loss``, ``difference``, ``low``, ``high`` (nats a token)
        and ``verdict``: what :func:`curvekit.figures.difference_by_group` draws. The baseline is left out.

    Raises:
        CurvekitError: the baseline is none of the models.
    """
    if baseline not in models:
        raise CurvekitError(f"the baseline {baseline!r} is none of the models ({', '.join(models)}); name one of them")
    scores = {
        name: {domain: score_documents(model, tokenizer, texts, context=context) for domain, texts in domains.items()}
        for name, (model, tokenizer) in models.items()
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for name in models:
        if name == baseline:
            continue
        found[name] = []
        for domain in domains:
            apart = paired_bootstrap(scores[name][domain], scores[baseline][domain], samples=samples)
            found[name].append(
                {
                    "label": domain,
                    "tokens": int(scores[name][domain].tokens.sum()),
                    "loss": scores[name][domain].loss,
                    **{key: getattr(apart, key) for key in ("difference", "low", "high", "verdict")},
                }
            )
    return found
