"""What preference training brought and what it cost: start and end on prompts that did not train, and on plain text.

Both answer every held-out prompt with the same dice. Their answers are scored by the reward that trained and by a judge
that did not, compared blind in the rating widget's own format, and measured for length and diversity; the KL is that
of the end's own answers, and the perplexity that of the corpus's test documents.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curvekit.evaluation.metrics import LanguageModelScore, diversity, score_documents
from curvekit.evaluation.significance import paired_bootstrap, resampled
from curvekit.files import finite, write_json, write_jsonl
from curvekit.preferences.encoding import answer_ids, prompt_ids
from curvekit.preferences.gathering import Answer, Preference
from curvekit.preferences.policies import Policy, laid_out, log_probabilities, write
from curvekit.preferences.prompting import encoded
from curvekit.preferences.ratings import QUESTIONS, wilson, win_rates
from curvekit.preferences.rewards import Reward
from curvekit.preferences.settings import PreferenceConfig

START, END = "start", "end"
_SEED = 1_000_000_007  # of the dice on held-out prompts: no training round has it
_RATED_TIES = dict.fromkeys(QUESTIONS, "tie")


def compare(
    config: PreferenceConfig,
    policy: Policy,
    prompts: Sequence[str],
    texts: Sequence[str],
    reward: Reward,
    judge: Reward,
    folder: Path,
    revision: str,
) -> dict[str, Any]:
    """Figures of start and end, with the intervals of what changed; writes samples, judgements and scores.

    Args:
        prompts: held-out ones.
        texts: documents whose perplexity is measured.
        revision: of those documents.
    """
    ids = encoded(config, policy.tokenizer, prompts)
    draw = (config.answer_tokens, _SEED + config.seed, config.temperature)
    with policy.as_reference() as reference:
        before = write(reference, policy.tokenizer, ids, *draw)
    after = write(policy.model, policy.tokenizer, ids, *draw)
    mine = log_probabilities(policy.model, after)
    with policy.as_reference() as reference:
        theirs = log_probabilities(reference, after)
    kl = (mine - theirs).sum(1).tolist()
    rows = []
    for name, found in ((START, before), (END, after)):
        rows.append(
            {
                "name": name,
                "reward": reward(prompts, found.answers),
                "judge": judge(prompts, found.answers),
                "tokens": found.answer.sum(1).tolist(),
                "answers": found.answers,
            }
        )
    samples = _samples(prompts, rows, kl)
    write_jsonl(folder / "samples.jsonl", samples)
    judged = blind(prompts, rows, judge.name, config.seed)
    write_jsonl(folder / "judged.jsonl", judged)
    scores = _scores(config, policy, texts, folder, revision)
    figures = {row["name"]: _figures(config, row) for row in rows}
    figures[START]["perplexity"], figures[END]["perplexity"] = (finite(each.perplexity) for each in scores)
    wins = {row["model"]: row for row in win_rates(judged)}.get(END)
    return {
        "start": figures[START],
        "end": figures[END],
        "kl": float(np.mean(kl)),
        "kl_per_token": float(np.sum(kl) / max(1, sum(rows[1]["tokens"]))),
        "changes": {
            name: _change([row[name] for row in rows]) for name in ("reward", "judge", "tokens")
        } | {"perplexity": _perplexity_change(*scores)},
        "win_rate": wins,
        "judge": judge.name,
        "rewarded_by": reward.name,
        "prompts": len(prompts),
        "signature": scores[0].signature,
    }  # fmt: skip


def preferred_share(config: PreferenceConfig, policy: Policy, pairs: Sequence[Preference]) -> dict[str, Any]:
    """In what share of pairs the policy's own reward, ``log pi / pi_ref``, is higher for the chosen answer.

    Returns:
        ``held_out_pairs, held_out_accuracy`` and Wilson's interval as ``held_out_low, held_out_high``. Where policy and
        reference are one, no answer is higher, and a tie counts half.
    """
    prompts = [prompt_ids(policy.tokenizer, each.prompt, config.chat) for each in pairs]
    found = []
    for side in ("chosen", "rejected"):
        answers = [answer_ids(policy.tokenizer, getattr(e, side), getattr(e, f"{side}_ended")) for e in pairs]
        rows = laid_out(policy.tokenizer, prompts, answers, policy.device)
        ratio = log_probabilities(policy.model, rows)
        with policy.as_reference() as reference:
            ratio = ratio - log_probabilities(reference, rows)
        found.append(ratio.sum(1))
    wins = float((found[0] > found[1]).sum()) + 0.5 * float((found[0] == found[1]).sum())
    low, high = wilson(wins, len(pairs))
    figures = {"held_out_pairs": len(pairs), "held_out_accuracy": wins / len(pairs)}
    return figures | {"held_out_low": low, "held_out_high": high}


def blind(prompts: Sequence[str], rows: Sequence[dict[str, Any]], judge: str, seed: int) -> list[dict[str, Any]]:
    """The judge's preferences as ratings of the blind widget, sides drawn anew for each prompt."""
    dice = random.Random(seed)
    found = []
    for number, prompt in enumerate(prompts):
        first, second = dice.sample(range(2), 2)
        a, b = rows[first], rows[second]
        better = "tie"
        if a["judge"][number] != b["judge"][number]:
            better = "first" if a["judge"][number] > b["judge"][number] else "second"
        found.append(
            {"prompt": prompt, "first": a["name"], "second": b["name"], "seed": seed, "rater": f"judge: {judge}"}
            | {"first_text": a["answers"][number].text, "second_text": b["answers"][number].text}
            | _RATED_TIES
            | {"better": better}
        )
    return found


def _samples(prompts: Sequence[str], rows: Sequence[dict[str, Any]], kl: Sequence[float]) -> list[dict[str, Any]]:
    found = []
    for number, prompt in enumerate(prompts):
        row: dict[str, Any] = {"prompt": prompt}
        for name, each in zip(("before", "after"), rows, strict=True):
            answer: Answer = each["answers"][number]
            row |= {name: answer.text, f"{name}_ended": answer.ended, f"{name}_tokens": each["tokens"][number]}
            row |= {f"{name}_{what}": float(each[what][number]) for what in ("reward", "judge")}
        found.append(row | {"kl": kl[number]})
    return found


def _figures(config: PreferenceConfig, row: dict[str, Any]) -> dict[str, Any]:
    texts = [each.text for each in row["answers"]]
    alike = diversity(texts, max(1, config.answer_tokens // 4))
    return {
        "reward": float(np.mean(row["reward"])),
        "judge": float(np.mean(row["judge"])),
        "tokens": float(np.mean(row["tokens"])),
        "ended": float(np.mean([each.ended for each in row["answers"]])),
        **{name: alike[name] for name in ("distinct_1", "distinct_2", "distinct_3", "repetition_4")},
    }


def _change(both: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """End minus start, over the prompts, with its interval."""
    delta = np.asarray(both[1], float) - np.asarray(both[0], float)
    found = resampled(delta[None], np.ones(len(delta)), unit="answer")
    return {name: finite(float(getattr(found, name))) for name in ("difference", "low", "high")}


def _perplexity_change(before: LanguageModelScore, after: LanguageModelScore) -> dict[str, float | None]:
    """What share perplexity rose by, over the documents, with its interval; one document has none."""
    found = paired_bootstrap(after, before)
    return {name: finite(float(np.expm1(getattr(found, name)))) for name in ("difference", "low", "high")}


@torch.no_grad()
def _scores(
    config: PreferenceConfig, policy: Policy, texts: Sequence[str], folder: Path, revision: str
) -> tuple[LanguageModelScore, LanguageModelScore]:
    found = []
    with policy.as_reference() as reference:
        found.append(_score(config, reference, policy.tokenizer, texts, revision))
    found.append(_score(config, policy.model, policy.tokenizer, texts, revision))
    for name, each in zip((START, END), found, strict=True):
        write_json(folder / f"scores-{name}.json", each.to_dict())
    return found[0], found[1]


def _score(
    config: PreferenceConfig, model: Any, tokenizer: Any, texts: Sequence[str], revision: str
) -> LanguageModelScore:
    return score_documents(
        model,
        tokenizer,
        list(texts),
        context=config.block_size,
        signature={
            "model": Path(config.base).name,
            "corpus": Path(config.corpus).name,
            "revision": revision,
            "split": "test",
        },
    )
