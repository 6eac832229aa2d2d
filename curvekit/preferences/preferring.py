"""One preference run: pairs or rewards, training from invariants that hold, and what it brought and cost.

A folder lies between the stages: ``pairs.jsonl``, then checkpoints, then ``model/``, then ``metrics.json``. Whatever is
killed goes on from the last thing that is whole.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from curvekit.bases.adapters import Lora, fold, inject, is_adapted, save_adapter
from curvekit.errors import CurvekitError
from curvekit.files import read_json, write_json, write_jsonl
from curvekit.modes import quiet
from curvekit.ownership import mark, marker, replaced
from curvekit.preferences.diary import Diary, take_back
from curvekit.preferences.encoding import answer_ids, check_room, prompt_ids
from curvekit.preferences.gathering import Answer, Gathered, Preference, from_scores, read_pairs
from curvekit.preferences.invariants import check_start
from curvekit.preferences.measuring import compare, preferred_share
from curvekit.preferences.policies import Policy, start, write
from curvekit.preferences.prompting import Prompts, encoded, gather_prompts
from curvekit.preferences.reinforcing import PROGRESS, Reinforcement, reinforce
from curvekit.preferences.rewards import Reward, new_model, read_at_the_last_token, reward_of
from curvekit.preferences.runs import PreferenceRun
from curvekit.preferences.settings import OFFLINE, PreferenceConfig
from curvekit.preferences.tuning import REFERENCE, first_batch, make_trainer, require_trl, rows_of
from curvekit.text.corpora import corpus_revision, load_corpus
from curvekit.training.checkpoints import WEIGHTS, is_last, last_whole_checkpoint, load_weights, step_of, writing
from curvekit.training.runs import claimed
from curvekit.training.tracking import Row, Watcher, check_tracker, watching

HELD_OUT_PAIRS = 5  # every fifth pair of a file judges, and trains nothing


def prefer(
    config: PreferenceConfig,
    folder: str | Path,
    *,
    progress: str = "auto",
    on_row: Callable[[Row], None] | None = None,
) -> PreferenceRun:
    """Train on preferences in ``folder`` and measure what it brought, or go on with the run that is there.

    Args:
        config: see :class:`PreferenceConfig`.
        folder: a new or empty folder, or that of the same run. One process at a time.
        progress: ``bar``, ``lines`` or ``none``; ``auto`` is a bar where someone looks at it, else lines.
        on_row: called with every new row of the history.

    Raises:
        CurvekitError: a bad setting; preferences that teach nothing; an invariant that does not hold; another run,
            other files or another process in the folder; a loss that is not a number.
    """
    config.validate()
    if config.method != "ppo":
        require_trl()
    check_tracker(config)
    folder = Path(folder)
    with claimed(config, folder, PreferenceRun) as run:
        assert isinstance(run, PreferenceRun)
        if run.finished:
            _clear(folder)
            return run
        shown = progress != "none"
        say = partial(print, file=sys.stderr, flush=True) if shown else _nothing
        with quiet():
            work = _Work(config, run, say)
            if not run.trained:
                work.prepare()
            with watching(config, folder, run.history, progress, on_row) as watchers:
                if not run.trained:
                    work.train(watchers)
                work.measure(watchers)
        _clear(folder)
    return run


class _Work:
    """The stages of a run over its folder."""

    def __init__(self, config: PreferenceConfig, run: PreferenceRun, say: Callable[[str], object]) -> None:
        self.config, self.run, self.say = config, run, say
        told: list[str] = []
        self.corpus = load_corpus(config.corpus, config.data_dir, announce=told.append)
        for text in told:
            say(text)
        if config.method == "reward":
            model, tokenizer = new_model(config)
            if config.adapter == "lora" and not run.trained:
                inject(model, Lora(config.rank, config.alpha), config.seed, "score")
            self.policy = Policy(model, tokenizer)
        else:
            self.policy = start(config)
        self.prompts: Prompts = gather_prompts(config, self.policy.tokenizer, self.corpus)
        self.rewards: Reward | None = None
        if name := config.reward or config.rule:
            self.rewards = reward_of(name)

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    # Pairs

    def prepare(self) -> None:
        """Gather the pairs, once; a run that goes on has its own."""
        if self.config.method not in OFFLINE:
            lengths = [len(ids) + self.config.answer_tokens for ids in self._encoded(self.prompts.train)]
            check_room(self.policy.model, lengths, "prompts")
            needed = self.config.batch_size // self.config.generations
            if self.config.method != "ppo" and len(self.prompts.train) < needed:
                raise CurvekitError(
                    f"there are {len(self.prompts.train)} prompts to train with, and a step of batch_size "
                    f"{self.config.batch_size} takes {needed}; give more prompts, or lower batch_size"
                )
            return
        path = self.run.folder / "pairs.jsonl"
        if not (path.exists() and (self.run.folder / "notes.json").exists() and self.run.begun):
            found = self._gathered()
            self._check_lengths(found.pairs)
            write_jsonl(path, (each.to_dict() for each in found.pairs))
            write_json(self.run.folder / "notes.json", {"notes": found.notes})
        for note in read_json(self.run.folder / "notes.json", shape={"notes": [str]})["notes"]:
            self.say(f"note: {note}")
        self.say(f"{len(self.run.pairs)} pairs")

    def _gathered(self) -> Gathered:
        config = self.config
        if config.pairs is not None:
            return read_pairs(config.pairs, config.question)
        assert self.rewards is not None
        if config.method == "reward":
            raise CurvekitError("method is 'reward' with a rule, which is a reward already; give pairs")
        self.say(f"writing {config.samples} answers to each of {len(self.prompts.train)} prompts")
        repeated = [ids for ids in self._encoded(self.prompts.train) for _ in range(config.samples)]
        check_room(self.policy.model, [len(ids) + config.answer_tokens for ids in repeated], "prompts")
        found = write(
            self.policy.model, self.tokenizer, repeated, config.answer_tokens, config.seed, config.temperature
        )
        n = config.samples
        answers = [found.answers[i : i + n] for i in range(0, len(found.answers), n)]
        score_one = lambda text: self.rewards([""], [Answer(text, True)])[0]  # noqa: E731
        return from_scores(self.prompts.train, answers, score_one, self.rewards.name, config.cut)

    def _check_lengths(self, pairs: Sequence[Preference]) -> None:
        longest = []
        for each in pairs:
            prompt = len(prompt_ids(self.tokenizer, each.prompt, self.config.chat))
            answers = ((each.chosen, each.chosen_ended), (each.rejected, each.rejected_ended))
            longest.append(prompt + max(len(answer_ids(self.tokenizer, *answer)) for answer in answers))
        check_room(self.policy.model, longest, "pairs")

    def _encoded(self, prompts: Sequence[str]) -> list[list[int]]:
        return encoded(self.config, self.tokenizer, prompts)

    # Training

    def train(self, watchers: Sequence[Watcher]) -> None:
        """Train from the start, or on from a checkpoint, and write ``model/``."""
        if self.config.method == "ppo":
            self._reinforce(watchers)
        else:
            self._tune(watchers)
        self._save()

    def _tune(self, watchers: Sequence[Watcher]) -> None:
        config, folder = self.config, self.run.folder
        place = folder / "checkpoints"
        checkpoint = last_whole_checkpoint(place)
        if checkpoint and all(row["step"] < step_of(checkpoint) for row in self.run.history):
            warnings.warn(f"{folder} has lost the history of its checkpoints; training begins anew", stacklevel=2)
            shutil.rmtree(place)
            checkpoint = None
        place.mkdir(exist_ok=True)
        if not marker(place):
            mark(place, "checkpoints")
        take_back(folder, step_of(checkpoint) if checkpoint else -1)
        diary = Diary(folder, watchers)
        online = config.method not in OFFLINE
        if online:
            rows = Dataset.from_dict({"prompt": self.prompts.train})
        else:
            rows = rows_of(config, self.tokenizer, self._training_pairs())
        if config.method == "reward":
            read_at_the_last_token(self.policy.model)
        trainer = make_trainer(config, self.policy, rows, folder, diary, self.rewards if online else None)
        if config.method not in ("reward", "sft"):
            known = config.method in ("dpo", "kto")
            self._check(partial(first_batch, trainer, config.held) if known else None)
        cached = self.policy.model.config.use_cache
        if checkpoint is None or not is_last(checkpoint):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        else:
            load_weights(self.policy.model, checkpoint / WEIGHTS)
        self.policy.model.config.use_cache = cached
        self.policy.model.__dict__.pop("forward", None)  # trl's own, and that of a reward model

    def _reinforce(self, watchers: Sequence[Watcher]) -> None:
        folder = self.run.folder
        work = Reinforcement(self.config, self.policy)
        self._check(None)
        if (folder / PROGRESS).exists() and not work.load(folder):
            warnings.warn(f"{folder / PROGRESS} is not whole; training begins anew", stacklevel=2)
        take_back(folder, work.rounds or -1)
        assert self.rewards is not None
        with writing(folder / "model"):
            reinforce(self.config, work, folder, self.prompts.train, self.rewards, Diary(folder, watchers))

    def _check(self, first: Callable[[], tuple[float, float]] | None) -> None:
        ids = self._encoded(self.prompts.train[: min(8, len(self.prompts.train))])
        few = min(8, self.config.answer_tokens)
        rollout = write(self.policy.model, self.tokenizer, ids, few, self.config.seed)
        check_start(self.policy, self.config, self.run.folder, rollout, first, self.say)

    def _training_pairs(self) -> list[Preference]:
        pairs = self.run.pairs
        return [each for i, each in enumerate(pairs) if not self._is_held_out(i)]

    def _is_held_out(self, number: int) -> bool:
        enough = self.config.pairs is not None and len(self.run.pairs) >= HELD_OUT_PAIRS
        return enough and number % HELD_OUT_PAIRS == HELD_OUT_PAIRS - 1

    def _save(self) -> None:
        folder, model = self.run.folder / "model", self.policy.model
        with writing(folder), replaced(folder, "model") as half:
            if is_adapted(model):
                save_adapter(model, half)
            else:
                if self.config.method == "reward" and self.config.adapter == "lora":
                    fold(model)
                model.save_pretrained(half)
            self.tokenizer.save_pretrained(half)

    # Measuring

    def measure(self, watchers: Sequence[Watcher]) -> None:
        """Write ``metrics.json``, the last file of a run."""
        for watcher in watchers:
            watcher.say("measuring start and end")
        history = self.run.history
        last = history[-1]
        metrics: dict[str, Any] = {
            "method": self.config.method,
            "seed": self.config.seed,
            "fingerprint": self.config.fingerprint(),
            "steps": last["step"],
            "seconds": last["seconds"],
            "pairs": len(self.run.pairs),
            "trainable_parameters": self._trainable(),
            "invariants": self._kept("invariants.json", "checked"),
            "notes": self._kept("notes.json", "notes"),
        }
        samples: list[Row] = []
        if self.config.method == "reward":
            metrics |= self._of_the_reward_model()
        else:
            metrics |= self._compared()
            metrics |= {"perplexity": metrics["end"]["perplexity"], "reward": metrics["end"]["reward"]}
            samples = [{name: row[name] for name in ("prompt", "before", "after")} for row in self.run.samples]
        for watcher in watchers:
            watcher.finish(metrics, samples)
        write_json(self.run.folder / "metrics.json", metrics)

    def _compared(self) -> dict[str, Any]:
        config = self.config
        self._open()
        judge = reward_of(config.held_out) if config.held_out else self.rewards
        reward = self.rewards or judge
        if reward is None or judge is None:  # nothing but the pairs says what is good
            judge = reward = reward_of("full_sentence")
        texts = self.corpus["test"]["text"][: config.eval_documents]
        revision = corpus_revision(self.corpus)["test"]
        found = compare(config, self.policy, self.prompts.test, texts, reward, judge, self.run.folder, revision)
        if held_out := [each for i, each in enumerate(self.run.pairs) if self._is_held_out(i)]:
            found |= preferred_share(config, self.policy, held_out)
        return found

    def _open(self) -> None:
        """The policy as it was saved, whose start is still at hand."""
        from curvekit.bases.adapters import MATRICES, load_saved

        folder = self.run.folder / "model"
        if (folder / MATRICES).exists():
            load_saved(self.policy.model, folder)
        else:
            self.policy.model.load_state_dict(self.run.model().state_dict())

    def _of_the_reward_model(self) -> dict[str, Any]:
        """How often the reward model prefers what was preferred, in pairs that trained and in others."""
        reward = reward_of(str(self.run.folder))
        found: dict[str, Any] = {}
        for name in ("train", "held_out"):
            pairs = [e for i, e in enumerate(self.run.pairs) if self._is_held_out(i) == (name == "held_out")]
            if not pairs:
                found[f"{name}_accuracy"] = None
                continue
            prompts = [each.prompt for each in pairs]
            chosen = reward(prompts, [Answer(each.chosen, each.chosen_ended) for each in pairs])
            rejected = reward(prompts, [Answer(each.rejected, each.rejected_ended) for each in pairs])
            found[f"{name}_accuracy"] = sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)
            found[f"{name}_pairs"] = len(pairs)
        return found

    def _trainable(self) -> int:
        return sum(p.numel() for p in self.policy.model.parameters() if p.requires_grad)

    def _kept(self, name: str, field: str) -> Any:
        path = self.run.folder / name
        return read_json(path)[field] if path.exists() else None


def _clear(folder: Path) -> None:
    """Remove what is needed only to go on."""
    place = folder / "checkpoints"
    if marker(place).get("kind") == "checkpoints":
        shutil.rmtree(place)
    for name in (PROGRESS, REFERENCE):
        (folder / name).unlink(missing_ok=True)


def _nothing(text: str) -> None:
    """Say nothing."""
