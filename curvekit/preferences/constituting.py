"""Constitutional AI from end to end: revisions, tuning on them, preferences of the critic, and DPO on those.

A folder with a part for each stage, each of which goes on after a kill: ``loop/`` drafts, critiques and revisions,
``sft/`` the run that learns the last revisions, ``tuned/`` its model, whole, ``feedback/`` two answers of it to each
prompt and the critic's choice, ``dpo/`` the run that learns those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from curvekit.bases.adapters import is_adapted, merge
from curvekit.bases.opening import open_model
from curvekit.errors import CurvekitError
from curvekit.files import read_json
from curvekit.modes import quiet
from curvekit.ownership import Kind, marker, replaced, require
from curvekit.preferences.constitution import Constitution
from curvekit.preferences.critics import Critic
from curvekit.preferences.gathering import Answer
from curvekit.preferences.policies import base_of, start, write
from curvekit.preferences.preferring import prefer
from curvekit.preferences.prompting import encoded, gather_prompts
from curvekit.preferences.revising import feedback, open_loop, revise
from curvekit.preferences.runs import PreferenceRun
from curvekit.preferences.settings import PreferenceConfig
from curvekit.text.corpora import load_corpus

LEAST = 2  # pairs that can be learned from
WHOLE = Kind("model", "a whole model's folder", {})


def constitute(
    config: PreferenceConfig,
    constitution: Constitution,
    critic: Critic,
    folder: str | Path,
    *,
    progress: str = "auto",
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Teach a model a constitution, or go on where it was stopped.

    Args:
        config: of both runs; its method, pairs and rule are the stages' own.
        critic: finds faults, revises and prefers.
        folder: a new one, or that of the same command.
        progress: as of :func:`curvekit.preferences.preferring.prefer`.
        say: told what happens.

    Returns:
        ``agreement`` of the critic with the rules, and the finished runs ``sft`` and ``dpo``.

    Raises:
        CurvekitError: as its stages; or the critic found nothing to revise.
    """
    folder = Path(folder)
    config = replace(config, base=base_of(config.base))
    with quiet():
        policy = start(config)
        corpus = load_corpus(config.corpus, config.data_dir)
        prompts = gather_prompts(config, policy.tokenizer, corpus).train
        loop = folder / "loop"
        open_loop(loop, constitution, critic)
        revisions = revise(loop, constitution, critic, prompts, _writer(config, policy.model, policy.tokenizer), say)
    if len(revisions) < LEAST:
        raise CurvekitError(
            f"{critic.name} revised {len(revisions)} of {len(prompts)} answers, too few to learn from; take other "
            "prompts, another critic, or other principles"
        )
    rules = "+".join(each.rule for each in constitution.principles if each.rule) or "full_sentence"
    judged = replace(config, rule=None, reward=None, held_out=config.held_out or rules)
    say(f"tuning on {len(revisions)} revisions")
    sft = prefer(
        replace(judged, method="sft", pairs=str(loop / "revisions.jsonl")).validate(), folder / "sft", progress=progress
    )
    tuned = whole(sft, folder / "tuned")
    with quiet():
        model, tokenizer = open_model(tuned)
        second = folder / "feedback"
        open_loop(second, constitution, critic)
        preferred = feedback(second, constitution, critic, prompts, _writer(config, model, tokenizer, 1), say)
    say(f"DPO on {len(preferred)} preferences of {critic.name}")
    dpo = prefer(
        replace(judged, method="dpo", pairs=str(second / "preferred.jsonl"), base=str(tuned)).validate(),
        folder / "dpo",
        progress=progress,
    )
    return {"agreement": read_json(loop / "agreement.json"), "sft": sft, "dpo": dpo}


def _writer(config: PreferenceConfig, model: Any, tokenizer: Any, stage: int = 0) -> Callable[..., list[Answer]]:
    def written(prompts: Sequence[str]) -> list[Answer]:
        ids = encoded(config, tokenizer, prompts)
        seed = config.seed * 2 + stage
        return write(model, tokenizer, ids, config.answer_tokens, seed, config.temperature).answers

    return written


def whole(run: PreferenceRun, folder: Path) -> Path:
    """A run's model with its adapter merged, as a base that can be trained on; made once."""
    if marker(folder).get("files"):
        return folder
    require(folder, WHOLE)
    model = run.model()
    if is_adapted(model):
        merge(model)
    with replaced(folder, WHOLE.name) as half:
        model.save_pretrained(half)
        run.tokenizer().save_pretrained(half)
    return folder
