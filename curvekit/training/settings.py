"""A run's settings: one dataclass, whose fields are the flags, the notebooks' parameters and ``config.json`` alike.

No model is loaded here, so the command line and the notebooks read their settings from this file at no cost.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from curvekit.errors import CurvekitError
from curvekit.files import checked_path, present
from curvekit.shapes import DEEPEST, too_deep
from curvekit.training.fields import Settings
from curvekit.training.fields import notes as _notes
from curvekit.training.fields import setting as _setting
from curvekit.training.fields import short as _short

SPLITS = ("validation", "test")
LOSSES = {  # what a run may minimise -> its own settings
    "cross_entropy": (),
    "label_smoothing": ("label_smoothing",),
    "focal": ("focal_gamma",),
    "inverse_frequency": ("frequency_power", "frequency_cap"),
    "unlikelihood": ("unlikelihood",),
}
COLDEST = 1e-6  # temperature above 0: what logits are divided by must not make them infinite
SMOLLM2: dict[str, Any] = {  # some ten minutes on two cores in float32, scores included
    "adapter": "lora",
    "block_size": 256,
    "batch_size": 4,
    "accumulate": 1,
    "steps": 60,
    "validation_documents": 4,
    "eval_documents": 8,
    "temperature": 0.7,
}
TASK: dict[str, Any] = {  # of rows that hold several examples each
    "block_size": 1024,
    "batch_size": 1,
    "accumulate": 1,
    "steps": 60,
    "validation_documents": 32,
    "eval_documents": 100,
}
PRETRAINING: dict[str, Any] = {  # of the base that ships: 1.6 passes over its 20 million tokens
    "recipe": "gpt2",
    "scratch": True,
    "block_size": 512,
    "batch_size": 4,
    "steps": 16_000,
    "learning_rate": 2e-3,
    "optimizer": "muon",
    "warmup": 0.02,
    "compile": True,
    "added_rate": 1.0,
    "eval_every": 500,
    "save_every": 250,
    "validation_documents": 24,
    "eval_documents": 48,
    "sample_tokens": 120,
    "temperature": 0.8,
}


def main_recipes(base: str, scratch: bool = False) -> tuple[str, ...]:
    """What is compared on a base unless something is named; the first, its baseline, is the base itself.

    On a GPT-2 that recipe is called ``gpt2``, as it was while every base was one, elsewhere ``plain``. The others are a
    curve, SoftEMax, and the best curve with it. A base that was pretrained with softmax has learned to count on all of
    its attention, which SoftEMax's constant would take from it (0.4 nats before the first step of ``mini``, 0.2 of
    ``smollm2``), and to read each state as it is: there SoftEMax comes with learned sinks that begin low, and the curve
    at the input alone, behind its closed gate. A base that was pretrained with a curve is compared with what is left
    without it.
    """
    from curvekit.bases.hub import GPT2S, config_at_hand, own_recipe

    saved = config_at_hand(base)
    kind = str(saved.get("model_type")) if saved else ""
    plain = "gpt2" if base in GPT2S or kind.endswith("gpt2") else "plain"
    if scratch:
        sites = "" if "t5" in (kind or base.lower()) else "+sites"  # for which a T5 has no place
        return plain, "curve3", "softemax", f"curve3{sites}+softemax"
    if own := own_recipe(base):
        return own, plain
    return plain, "curve3", "sink", "curve3+sink"


def main_recipe(base: str, scratch: bool = False) -> str:
    """What is trained on a base unless something is named: its own recipe, or the best curve.

    Put into a base that was pretrained with softmax that is the curve alone: sinks gain nothing beside it in ``mini``,
    and cost ``smollm2`` a quarter of a percent of perplexity. From random weights it is the best of 16,000 steps; at
    1,000 ``encoder+canon+softemax`` is ahead of it, which has no curve and was not trained so long.
    """
    from curvekit.bases.hub import own_recipe

    return own_recipe(base) or main_recipes(base, scratch)[-1 if scratch else 1]


@dataclass
class RunConfig(Settings):
    """Every setting of a run. The defaults are the recommended values.

    The command line's flags, a notebook's parameters and ``config.json`` have these names. The ``metadata``
    of ``fields(RunConfig)`` tell of each its ``help``, ``choices``, ``least``, ``most``, and as ``result``
    whether it changes the run's figures.
    """

    recipe: str = _setting(
        None,
        "model variant: plain (of a GPT-2 also gpt2), curve, softemax, ... (default: the base's own, or the best "
        "curve: curve3, from random weights curve3+sites+softemax)",
    )
    base: str = _setting("mini", "checkpoint to fine-tune: mini, smollm2, gpt2, ..., a hub name, or a folder")
    corpus: str = _setting(
        None, "text: pydocs, wikitext-2, wikitext-103, ..., or a file or folder (default: pydocs; with a task, its own)"
    )
    source_key: str | None = _setting(
        None, "of rows: what a T5 reads (default: text, of which it reads the first half of a passage)"
    )
    target_key: str | None = _setting(None, "of rows: what a T5 writes for it (default: the rest of the passage)")
    data_dir: str | None = _setting(None, "folder with the corpus's files, instead of the hub", result=False)
    codes: str | None = _setting(
        None,
        "control code before each document: column:NAME of a table, folder, file, or file:_ for what stands in a "
        "file's name before the first _ (default: none)",
    )
    code_dropout: float = _setting(
        0.1, "share of the training documents that stand without their codes, for guidance", least=0, most=1
    )
    task: str | None = _setting(
        None, "train on a task's answers instead: squad_qa, scitldr, ..., or JSONL rows of your own, a file or folder"
    )
    template: str | None = _setting(
        None, "a prompt with the keys of the rows, the answer last: 'Question: {question}\\nAnswer: {answer}'"
    )
    judged: str | None = _setting(
        None,
        "how answers to rows of your own are judged (default: answer, without a template dialogue)",
        choices=("answer", "choice", "summary", "dialogue"),
    )
    form: str = _setting(
        "auto",
        "chat: a task's turns by the base's chat template; plain: without; auto: by the template if there is one",
        choices=("auto", "plain", "chat"),
    )
    mix: str | None = _setting(
        None, "further corpora in the training text: CORPUS=SHARE,..., or CORPUS,... by size and mix_temperature"
    )
    mix_temperature: float = _setting(1.0, "1: a mixed corpus counts by its size; higher: more alike", least=0.1)
    tokenizer: str = _setting(
        "base",
        "base: the base's own; the others are learned from the corpus, which needs scratch",
        choices=("base", "characters", "bpe", "bpe-dropout"),
    )
    vocabulary: int = _setting(8192, "entries of a learned bpe", least=257)
    encoder: str = _setting("minilm", "BERT-family model whose states the curve runs through")
    context: str | None = _setting(
        None,
        "what the encoder sees at a position (default: the recipe's)",
        choices=("static", "causal", "bidirectional"),
    )
    model: dict[str, Any] = field(
        default_factory=dict,
        metadata=_notes("further model settings over the recipe's, such as degree or place"),
    )
    sink_share: float = _setting(
        0.05,
        "learned sinks put into a pretrained softmax model begin where they take at most this share of any query's "
        "attention; 0: at SoftEMax's constant",
        least=0,
        most=0.99,
    )
    scratch: bool = _setting(False, "begin from random weights of the base's shape instead of its own")
    freeze: str = _setting(
        "none", "what of the base keeps its weights: none, embeddings, all_but_head, or a number of first blocks"
    )
    seed: int = _setting(0, "seed of weights, data order, dropout and samples", least=0, most=2**32 - 1)

    adapter: str = _setting(
        None,
        "lora: the base keeps its weights, low-rank matrices beside them and what curvekit adds are trained and saved; "
        "none: all is (default: lora for smollm2, else none)",
        choices=("none", "lora"),
    )
    rank: int = _setting(8, "of an adapter's matrices", least=1)
    alpha: float = _setting(16.0, "an adapter's product counts alpha / rank times", least=0)
    targets: str | None = _setting(
        None, "matrices that get an adapter, such as q_proj,v_proj (default: all of attention and MLP)"
    )
    adapter_dropout: float = _setting(0.0, "of what an adapter reads", least=0, most=0.9)

    block_size: int = _setting(
        None,
        "tokens in a training block; of a T5 in a source, and in a target (default: 256, full size 1024, of a T5 512; "
        "with a task 512, full size 1024)",
        least=2,
    )
    examples: str = _setting(
        "packed",
        "packed: blocks cut from all documents joined; padded: a document an example, cut and padded to block_size",
        choices=("packed", "padded"),
    )
    batch_size: int = _setting(None, "blocks in a batch (default: 8, smollm2 4; with a task 2, full size 1)", least=1)
    accumulate: int = _setting(
        None, "batches whose gradients are summed into one step (default: 1, full size 4)", least=1
    )
    steps: int = _setting(
        None, "optimiser steps at most (default: 80, smollm2 and with a task 60, full size 3600)", least=1
    )
    learning_rate: float | None = _setting(
        None,
        "highest learning rate (default: 2e-3 for adapters, 1e-3 for mini, mini-curve and random weights, else 1e-4)",
        least=0,
    )
    added_rate: float = _setting(
        None,
        "rate of what curvekit adds (curve, gate, sinks, ...), in multiples of learning_rate (default: 1, in mini 8)",
        least=0,
    )
    site_rate: float | None = _setting(
        None,
        "the same of what stands in the blocks (curves, kernels, ...), which liked 4 from random weights "
        "(default: as added_rate)",
        least=0,
    )
    warmup: float = _setting(0.1, "share of the steps in which the rate rises to it", least=0, most=0.9)
    optimizer: str = _setting(
        "adamw",
        "adamw; or muon for the matrices of the blocks and adamw for the rest, which learns faster from random weights",
        choices=("adamw", "muon"),
    )
    weight_decay: float = _setting(0.1, "decay of matrices; biases and norms have none", least=0)
    clip: float = _setting(1.0, "largest gradient norm; 0 clips nothing", least=0)
    dropout: float = _setting(0.0, "of embeddings and residuals; attention has none", least=0, most=0.9)
    loss: str = _setting(
        "cross_entropy",
        "what training minimises; the losses that are reported are cross-entropy whatever it is",
        choices=tuple(LOSSES),
    )
    label_smoothing: float = _setting(0.1, "share of the target spread over all tokens", least=0, most=0.9)
    focal_gamma: float = _setting(2.0, "power of 1 - p by which a likely token counts less", least=0, most=10)
    frequency_power: float = _setting(0.5, "power of a token's frequency by which it counts less", least=0, most=1)
    frequency_cap: float = _setting(10.0, "most that a rare token counts, in multiples of the mean", least=1)
    unlikelihood: float = _setting(1.0, "weight of not repeating the tokens before", least=0)
    z_loss: float = _setting(0.0, "weight of the squared log-normaliser, beside any loss; 1e-4 is usual", least=0)
    precision: str = _setting(
        "auto",
        "auto: bf16 where the hardware multiplies in it, else fp16 on a GPU and float32 on a CPU",
        choices=("auto", "float32", "bf16", "fp16"),
    )
    gradient_checkpointing: bool = _setting(False, "less memory, about a third slower", result=False)
    compile: bool = _setting(
        False, "torch.compile the model, which pays in a long run (the benchmarks say after how many steps)"
    )
    shard: bool = _setting(
        False,
        "of several processes each keeps a part of weights, gradients and optimiser (FSDP2), not a copy (DDP)",
        result=False,
    )

    eval_every: int = _setting(
        None, "steps from one validation loss to the next (default: a quarter of steps, at most 300)", least=1
    )
    patience: int = _setting(
        0, "stop after so many validation losses without a new best, and keep the best; 0: never", least=0
    )
    save_every: int = _setting(
        None,
        "steps between checkpoints (default: eval_every); with patience, one at every validation",
        least=1,
        result=False,
    )
    keep_checkpoints: int = _setting(
        2, "checkpoints kept while training; a finished run keeps none", least=1, result=False
    )

    context_eval: int | None = _setting(None, "tokens in a scoring window (default: block_size)", least=1)
    stride: int | None = _setting(None, "tokens that a scoring window adds (default: half of it)", least=1)
    eval_documents: int | None = _setting(
        None, "test documents that are scored (default: all, smollm2 8, with a task 100)", least=1
    )
    validation_documents: int | None = _setting(
        None,
        "validation documents that are scored, in training and after it; more, if they fill no block "
        "(default: 16, smollm2 4, full size all, with a task 32)",
        least=1,
    )
    keep_tokens: int = _setting(8, "scored documents of which every token's loss is kept", least=0)
    sample_prompts: int = _setting(8, "held-out documents whose beginning is continued; 0: none", least=0)
    prompt_tokens: int = _setting(32, "tokens of such a beginning", least=1)
    sample_tokens: int = _setting(64, "tokens of a continuation", least=1)
    temperature: float = _setting(
        None, "of the samples; 0 takes the most likely token (default: 1, smollm2 0.7)", least=0
    )
    top_p: float = _setting(0.95, "samples draw from the likeliest tokens up to this share", least=0.01, most=1)

    track: str = _setting(
        "none",
        "where losses, metrics and samples are also logged",
        choices=("none", "wandb", "tensorboard"),
        result=False,
    )
    wandb_mode: str = _setting(
        "offline", "wandb writes files only, or sends them", choices=("offline", "online"), result=False
    )
    wandb_project: str = _setting("curvekit", "wandb project", result=False)
    wandb_group: str | None = _setting(
        None, "runs that wandb shows as one (default: an experiment's or a search's runs of one recipe)", result=False
    )

    def __post_init__(self) -> None:
        """Choose what was left open: a quick run for what ships and local bases, full size for the hub's models.

        Full size is one pass over WikiText-103: 3600 steps of 4 x 8 blocks of 1024 tokens. For ``smollm2`` it is a run
        of a quarter of an hour on two cores, see :data:`SMOLLM2`.
        """
        if isinstance(self.model, dict):  # as config.json will hold it
            self.model = {name: list(each) if isinstance(each, tuple) else each for name, each in self.model.items()}
        for name in ("base", "encoder"):
            if isinstance(path := getattr(self, name), str):
                setattr(self, name, str(checked_path(path, name)) if path.startswith("~") else path)
        for name, value in self._left_open().items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.eval_every is None and isinstance(self.steps, int):
            self.eval_every = max(1, min(300, self.steps // 4))
        if self.save_every is None:
            self.save_every = self.eval_every

    def _left_open(self) -> dict[str, Any]:
        """What is chosen for the base, where nothing is given."""
        from curvekit.bases.hub import SHIPPED, T5S

        local = isinstance(self.base, str) and present(self.base) and Path(self.base).is_dir()
        chosen: dict[str, Any] = {"adapter": "none", "batch_size": 8, "corpus": "pydocs", "temperature": 1.0}
        chosen["added_rate"] = 8.0 if self.base == "mini" and not self.scratch else 1.0  # its gates begin closed
        if self.recipe is None:  # else nothing of the base is read
            chosen["recipe"] = main_recipe(self.base, bool(self.scratch)) if isinstance(self.base, str) else "plain"
        if self.base == "smollm2":
            adapted = not self.scratch and self.freeze == "none" and self.optimizer != "muon"
            chosen |= SMOLLM2 | ({} if adapted else {"adapter": "none"})
        elif self.base in SHIPPED or local:
            chosen |= {"block_size": 256, "accumulate": 1, "steps": 80, "validation_documents": 16}
        else:
            chosen |= {"block_size": 512 if self.base in T5S else 1024, "accumulate": 4, "steps": 3600}
        if self.task is not None:
            chosen |= TASK | {"corpus": self.task}
            chosen |= {"block_size": 512, "batch_size": 2} if self.base in SHIPPED else {}
        return chosen

    def checked(self) -> Self:
        """Return itself if every value by itself has the type, the choice and the range of its setting.

        Raises:
            CurvekitError: one sentence about the first that has not.
        """
        super().checked()
        if too_deep(self.model):
            raise CurvekitError(f"model is nested more than {DEEPEST} times; write it flatter")
        for name, value in self.model.items():
            if isinstance(value, int) and abs(value) >= 2**31:
                raise CurvekitError(f"model {name} is {_short(value)}; give a number below 2^31")
        return self

    def usual(self) -> dict[str, Any]:
        """What every setting would be if only those were given that defaults hang on; and of those, their defaults."""
        choosing = {name: getattr(self, name) for name in _CHOOSING}
        own = {
            name: getattr(type(self)(**{each: value for each, value in choosing.items() if each != name}), name)
            for name in _CHOOSING
        }
        return type(self)(**choosing).to_dict() | own

    def unusual(self) -> dict[str, Any]:
        """The settings that would not be chosen anyway."""
        usual = self.usual()
        return {name: value for name, value in self.to_dict().items() if value != usual[name]}

    def command(self, *words: str) -> str:
        """The command line that trains this, without what would be chosen anyway; files and folders by their names.

        Of another command than ``train`` give its ``words``; it names its recipes and seeds itself.
        """
        usual = {name: value for name, value in self.usual().items() if name not in _SHOWN}
        usual |= {"recipe": self.recipe, "seed": self.seed} if words else {}
        return shlex.join(["curvekit", *(words or ("train",)), *self.flags(usual)])

    def validate(self) -> RunConfig:
        """Return itself if every value can be used.

        What needs the model, such as a block longer than its positions, is checked when it has been built.

        Raises:
            CurvekitError: one sentence about the first bad value.
        """
        self.checked()
        from curvekit.bases.hub import pick_base
        from curvekit.recipes import check_freeze, pick_recipe
        from curvekit.text.coded import checked_source
        from curvekit.text.corpora import CORPORA, existing_path
        from curvekit.text.mixing import parse_mix

        pick_recipe(self.recipe)
        pick_base(self.base)
        if (self.source_key is None) != (self.target_key is None):
            raise CurvekitError(
                f"source_key is {self.source_key!r} and target_key is {self.target_key!r}; give both, or none for text"
            )
        if self.task is not None:
            self._check_task()
        elif self.template is not None or self.judged is not None or self.form != "auto":
            raise CurvekitError("template, judged and form are of a task's rows; give a task, or leave them out")
        elif self.corpus not in CORPORA:
            existing_path(self.corpus, self.data_dir)
        if self.codes is not None:
            checked_source(self.codes)
        if self.mix is not None and (self.codes or self.task or self.source_key):
            raise CurvekitError("mix is of plain text; leave codes, task and the keys of rows out beside it")
        for each in parse_mix(self.mix) if self.mix is not None else ():
            if each.corpus not in CORPORA:
                existing_path(each.corpus)
        if self.mix is None and self.mix_temperature != 1:
            raise CurvekitError(f"mix_temperature is {self.mix_temperature} and nothing is mixed; give mix too")
        check_freeze(self.freeze)
        if own := _OWN & self.model.keys():
            raise CurvekitError(f"model holds {min(own)!r}, which is a setting of its own; give it as {min(own)}")
        if any(isinstance(value, float) and not math.isfinite(value) for value in self.model.values()):
            raise CurvekitError(f"model is {self.model}; give finite numbers")
        if self.tokenizer != "base" and not self.scratch:
            raise CurvekitError(
                f"tokenizer is {self.tokenizer!r}, but the weights of {self.base!r} know the base's own only; "
                "begin from random weights with scratch, or leave tokenizer at 'base'"
            )
        if self.tokenizer == "bpe-dropout" and self.vocabulary <= 257:
            raise CurvekitError(
                f"vocabulary is {self.vocabulary}, all of it bytes, and bpe-dropout leaves out merges; "
                "give 258 or more, or take tokenizer bpe"
            )
        if self.freeze != "none" and self.scratch:
            raise CurvekitError(
                f"freeze is {self.freeze!r} with scratch, and random weights would stay random; leave one of them out"
            )
        if 0 < self.temperature < COLDEST:
            raise CurvekitError(f"temperature is {self.temperature}; give 0, or {COLDEST} or more")
        if self.adapter != "none":
            self._check_adapter()
        self._check_loss()
        if self.stride is not None and self.stride > self.window:
            raise CurvekitError(f"stride is {self.stride} and would skip tokens; give at most {self.window}")
        return self

    def _check_task(self) -> None:
        """Refuse a task that there is none of, and settings of a corpus beside it."""
        from curvekit.text.tasks import find_task

        find_task(str(self.task), self.template, self.judged)
        if self.corpus != self.task:
            raise CurvekitError(
                f"corpus is {self.corpus!r} with task {self.task!r}, which has rows of its own; leave one of them out"
            )
        if self.tokenizer != "base":
            raise CurvekitError(f"tokenizer is {self.tokenizer!r}; a task is asked in the base's own: leave it out")

    def _check_adapter(self) -> None:
        """Refuse what cannot go with an adapter, which trains nothing of the base."""
        if self.scratch:
            raise CurvekitError(
                f"adapter is {self.adapter!r} with scratch, and random weights would stay random; leave one of them out"
            )
        if self.freeze != "none":
            raise CurvekitError(
                f"freeze is {self.freeze!r} with adapter {self.adapter!r}, which freezes all of the base; leave it out"
            )
        if self.optimizer == "muon":
            raise CurvekitError(
                f"optimizer is 'muon' with adapter {self.adapter!r}, and muon steps whole matrices of the blocks, "
                "which an adapter leaves as they are; use 'adamw'"
            )
        if self.targets is not None and not self.target_names():
            raise CurvekitError(f"targets is {self.targets!r}; name matrices, such as q_proj,v_proj, or leave it out")

    def _check_loss(self) -> None:
        """Refuse the setting of a loss that is not the run's: it would do nothing."""
        for loss, own in LOSSES.items():
            for name in own if loss != self.loss else ():
                if (value := getattr(self, name)) != _DEFAULTS[name]:
                    raise CurvekitError(
                        f"{name} is {value} with loss {self.loss!r}, which has no such setting; "
                        f"give loss {loss!r}, or leave it out"
                    )

    def target_names(self) -> tuple[str, ...] | None:
        """``targets`` one by one; None for all there are."""
        return None if self.targets is None else tuple(self.targets.replace(",", " ").split())

    @property
    def window(self) -> int:
        """Tokens in a window of the scoring."""
        return self.context_eval or self.block_size

    def overrides(self) -> dict[str, Any]:
        """The model settings that stand over the recipe's."""
        return ({"context": self.context} if self.context is not None else {}) | self.model

    def slug(self) -> str:
        """A folder name: ``curve+softemax-mini-pydocs-seed0``."""
        name = f"{self.recipe}-{Path(self.base).name}-{Path(self.corpus).name}-seed{self.seed}"
        return re.sub(r"[^\w.+-]+", "-", name)


_DEFAULTS = {each.name: each.default for each in fields(RunConfig)}
_CHOOSING = (  # what other settings' defaults hang on
    *("base", "scratch", "freeze", "optimizer", "task", "steps", "eval_every"),
)
_SHOWN = ("recipe", "base", "corpus", "steps")  # in a command line even where they are at their defaults
_OWN = {"recipe", "base", "tokenizer", "encoder", "seed", "scratch", "freeze"}  # what ``build_model`` is told by name
