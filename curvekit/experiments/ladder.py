"""The ladder of budgets: many recipes from random weights, chosen on a short rung and claimed on a longer one.

A candidate is a recipe and what is set over it, ``curve3`` or ``curve3:degree=3,learning_rate=0.003``. All see the
same blocks in the same order. Choosing happens on validation at the small rung; claims come from the test split at the
medium and the long one, with the candidates fixed before.

    FOLDER/RUNG/CANDIDATE-seedN/result.json      a finished run: settings, losses, every document's score

A run that has its result is not repeated, so a ladder that was stopped goes on. Runs are made by worker processes, each
of which trains several models side by side (see :mod:`curvekit.training.lean`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save

from curvekit.bases.building import MINI, build_model
from curvekit.bases.tokenizer import base_tokenizer
from curvekit.errors import CurvekitError, as_command, pick
from curvekit.evaluation.metrics import LanguageModelScore
from curvekit.evaluation.significance import PairedDifference, corrected, paired_bootstrap
from curvekit.files import read_json, write_atomically, write_json
from curvekit.recipes import RECIPES
from curvekit.training.lean import PRECISIONS, LeanConfig, LeanRun, TokenSet, data_order, score_tokens, together


class Rung(NamedTuple):
    """A budget, and what is scored after it."""

    steps: int
    splits: tuple[str, ...]
    stride: int


RUNGS = {
    "smoke": Rung(20, (), 512),
    "small": Rung(250, ("validation",), 512),
    "medium": Rung(1_000, ("test",), 512),
    "long": Rung(16_000, ("validation", "test", "other"), 256),
}
OWN = ("learning_rate", "own_rate", "site_rate", "weight_decay", "steps")  # what a candidate may set of its training
PLAIN = "plain"
BRIEF_LOSSES = 125  # of a run in a brief collection


@dataclass(frozen=True)
class Candidate:
    """A recipe, settings of its model and settings of its training; ``name`` is how it was written."""

    name: str
    recipe: str
    model: dict[str, Any]
    training: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read ``recipe`` or ``recipe:setting=value,setting=a+b``. ``like=RECIPE`` widens to that recipe's parameters.

        What is no recipe may be several, ``self-curve3+canon``, of which none sets what another does.

        Raises:
            CurvekitError: an unknown recipe, or a setting without a value.
        """
        recipe, _, rest = text.partition(":")
        model: dict[str, Any] = {}
        if recipe not in RECIPES and all(each in RECIPES for each in recipe.split("+")):
            recipe, *others = recipe.split("+")
            for each in others:
                if twice := (RECIPES[recipe] | model).keys() & RECIPES[each].keys():
                    raise CurvekitError(f"{text!r} sets {min(twice)} twice; name recipes that differ in what they set")
                model |= RECIPES[each]
        pick(recipe, RECIPES, "recipe")
        training: dict[str, float] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise CurvekitError(f"{part!r} in the candidate {text!r} sets nothing; write setting=value")
            chosen: dict[str, Any] = training if name in OWN else model
            chosen[name] = value if name == "like" else _value(value)
        return cls(text, recipe, model, training)

    @property
    def known_as(self) -> str:
        """Its shortest name: the recipe, or several, that are what it sets, and what else it sets."""
        names, left = [self.recipe], self.model
        for name in sorted(RECIPES, key=lambda name: (-len(RECIPES[name]), "attention" in RECIPES[name])):
            if RECIPES[name] and all(k in left and left[k] == v for k, v in RECIPES[name].items()):
                names.append(name)
                left = {k: v for k, v in left.items() if k not in RECIPES[name]}
        if len(names) == 1:
            return self.name
        told = [f"{name}={_written(value)}" for name, value in (left | self.training).items()]
        return ":".join(filter(None, ("+".join(names), ",".join(told))))

    @property
    def slug(self) -> str:
        return re.sub(r"[^\w.+-]+", "-", self.name)

    def config(self, rung: Rung, seed: int, **settings: Any) -> LeanConfig:
        return LeanConfig(**{"steps": rung.steps, "seed": seed, "stride": rung.stride, **settings, **self.training})

    def build(self, seed: int, encoder: str, tokenizer: Any, base: str = "mini") -> Any:
        """The model with random weights, on the CPU; every candidate of a seed has the same in the base's part."""
        model = dict(self.model)
        if like := model.pop("like", None):
            other = Candidate.parse(like).build(seed, encoder, tokenizer, base)
            model["n_embd"] = widened(other.num_parameters(only_trainable=True), len(tokenizer))
        return build_model(self.recipe, base, tokenizer, encoder=encoder, seed=seed, scratch=True, **model)


def _written(value: Any) -> str:
    """What :func:`_value` reads as the value."""
    return "+".join(value) if isinstance(value, tuple) else value if isinstance(value, str) else json.dumps(value)


def _value(text: str) -> Any:
    if "+" in text:
        return tuple(text.split("+"))
    try:
        return json.loads(text)
    except ValueError:
        return text


def widened(parameters: int, vocabulary: int) -> int:
    """The width at which a plain GPT-2 of ``mini``'s depth and heads has so many parameters, or nearest to it.

    A GPT-2 has ``V d + P d`` in its tables, ``12 d^2 + 13 d`` in each block, ``2 d`` in the last norm.
    """
    heads, layers, positions = MINI["n_head"], MINI["n_layer"], MINI["n_positions"]
    size = lambda d: (vocabulary + positions) * d + layers * (12 * d * d + 13 * d) + 2 * d  # noqa: E731
    return min(range(heads, 4_096, heads), key=lambda d: abs(size(d) - parameters))


# Tokens


def prepare(
    corpus: str | Path, path: str | Path, tokenizer: Any = None, other: Mapping[str, str] | None = None
) -> Path:
    """Write a corpus as tokens: its training text packed as the Trainer's, its held-out documents one by one.

    Args:
        corpus: a folder as :func:`curvekit.training.pretraining.prepare` leaves it.
        path: the file; read it with :meth:`curvekit.training.lean.TokenSet.load`.
        tokenizer: default ``mini``'s.
        other: further held-out documents by name, the split ``other``.
    """
    from curvekit.evaluation.metrics import tokenizer_hash
    from curvekit.files import read_jsonl
    from curvekit.text.corpora import text_revision
    from curvekit.text.packing import pack
    from curvekit.text.tokenization import start_token
    from curvekit.training.lean import Documents

    corpus, tokenizer = Path(corpus), tokenizer or base_tokenizer("mini")
    rows = {split: read_jsonl(corpus / f"{split}.jsonl") for split in ("train", "validation", "test")}
    if other:
        rows["other"] = [{"text": text, "source": name} for name, text in other.items()]
    stream = pack([row["text"] for row in rows["train"]], tokenizer, 2, None, False)
    splits = {}
    for split in rows.keys() - {"train"}:
        texts = [row["text"] for row in rows[split]]
        ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
        if not all(ids):
            raise CurvekitError(f"the {split} split has a document without a token; leave it out")
        lengths = [len(each) for each in ids]
        splits[split] = Documents(
            np.concatenate(ids).astype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32),
            np.cumsum([0, *lengths[:-1]]).astype(np.int64),
            np.array([len(text.split()) for text in texts]),
            np.array([len(text.encode()) for text in texts]),
            [row.get("source", "") for row in rows[split]],
        )
    facts = {
        "corpus": corpus.name,
        "revisions": {split: text_revision([row["text"] for row in rows[split]]) for split in rows},
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "vocabulary": len(tokenizer),
        "prefix": start_token(tokenizer),
    }
    TokenSet(np.array(stream.stream), splits, facts).save(path)
    return Path(path)


# Runs


class Job(NamedTuple):
    """One run of a ladder."""

    candidate: str
    rung: str
    seed: int

    def folder(self, root: Path) -> Path:
        return root / self.rung / f"{Candidate.parse(self.candidate).slug}-seed{self.seed}"


def run_ladder(
    candidates: Sequence[str],
    rung: str,
    seeds: Iterable[int],
    folder: str | Path,
    tokens: str | Path,
    *,
    encoder: str = "minilm",
    processes: int = 1,
    beside: int = 1,
    seconds: float | None = None,
    graph: bool = True,
    weights: bool = False,
    device: str | None = None,
    precision: str = PRECISIONS[0],
) -> list[Path]:
    """Make every run of candidates by seeds that has no result yet; returns the results that are there at the end.

    Args:
        candidates: see :meth:`Candidate.parse`.
        rung: a name of :data:`RUNGS`.
        folder: of all results.
        tokens: the file of :func:`prepare`.
        encoder: an encoder, or a folder of :func:`curvekit.bases.berts.save_table`.
        processes: workers at a time, on one device.
        beside: models that a worker trains side by side.
        seconds: after which what still runs is stopped; finished results stay.
        graph: see :class:`curvekit.training.lean.LeanRun`.
        weights: also keep the trained weights, in float16 and without the encoder.
        device: default the GPU where there is one.
        precision: ``bf16``, or ``float32``, which a CPU without bfloat16 computes six times as fast; runs are compared
            with those of their own precision alone.

    Raises:
        CurvekitError: an unknown candidate or rung, no token file, or a worker that failed (others go on).
    """
    root, until = Path(folder), time.time() + seconds if seconds else None
    pick(rung, RUNGS, "rung")
    jobs = [Job(candidate, rung, seed) for seed in seeds for candidate in candidates]
    TokenSet.load(tokens)  # unpacked once, before several look for it
    root.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        (job.folder(root) / "claimed").unlink(missing_ok=True)  # of a ladder that was stopped
    plan = root / f"jobs-{rung}-{os.getpid()}.json"
    write_json(plan, {"jobs": [list(job) for job in jobs]})
    command = [
        *(sys.executable, "-m", "curvekit.experiments.ladder", "work", str(plan), "--folder", str(root)),
        *("--tokens", str(tokens), "--encoder", encoder, "--beside", str(beside), "--precision", precision),
        *(["--until", str(until)] if until else []),
        *([] if graph else ["--eager"]),
        *(["--weights"] if weights else []),
        *(["--device", device] if device else []),
    ]
    workers = [subprocess.Popen(command) for _ in range(min(processes, len(jobs)))]
    try:
        for worker in workers:
            worker.wait(max(0.0, until + 5 - time.time()) if until else None)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        plan.unlink(missing_ok=True)
    found = [job.folder(root) / "result.json" for job in jobs]
    failed = [job for job in jobs if (job.folder(root) / "error.txt").exists()]
    if failed:
        what = (failed[0].folder(root) / "error.txt").read_text().strip().splitlines()[-1]
        raise CurvekitError(f"{len(failed)} of {len(jobs)} runs failed; the first, {failed[0].candidate}: {what}")
    if any(worker.returncode > 0 for worker in workers):
        raise CurvekitError(f"{sum(worker.returncode > 0 for worker in workers)} workers came to grief; see above")
    return [path for path in found if path.exists()]


def work(
    jobs: Sequence[Job],
    root: Path,
    tokens: TokenSet,
    *,
    encoder: str,
    beside: int,
    until: float | None = None,
    graph: bool = True,
    weights: bool = False,
    device: str | None = None,
    **settings: Any,
) -> None:
    """Take jobs that nobody else took, ``beside`` at a time, until there are none; what :func:`run_ladder` starts."""
    import traceback

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # one kernel for all lengths, with or without a graph
    tokenizer = base_tokenizer("mini")
    block_size = settings.get("block_size", LeanConfig.block_size)
    blocks = tokens.blocks(block_size, where)
    waiting = [job for job in jobs if not (job.folder(root) / "result.json").exists()]
    while waiting:
        taken: list[tuple[Job, Candidate, LeanRun]] = []
        while waiting and len(taken) < beside and (not taken or waiting[0].rung == taken[0][0].rung):
            job = waiting.pop(0)
            if not _claim(job.folder(root)):
                continue
            try:
                candidate = Candidate.parse(job.candidate)
                model = candidate.build(job.seed, encoder, tokenizer).to(where)
                config = candidate.config(RUNGS[job.rung], job.seed, **settings)
                taken.append((job, candidate, LeanRun(model, config, blocks, graph)))
            except Exception:
                (job.folder(root) / "error.txt").write_text(traceback.format_exc())
        if not taken:
            continue
        try:
            names = ", ".join(candidate.name for _, candidate, _ in taken)
            steps = taken[0][2].config.steps
            each = max(50, steps // 500 * 50)  # a tenth
            tell = lambda done, names=names, each=each: done % each or print(f"{names}: {done:,} steps", flush=True)  # noqa: E731
            seconds = together([run for _, _, run in taken], until or float("inf"), on_steps=tell)
        except TimeoutError as error:
            print(f"{[job.candidate for job, _, _ in taken]} {error}", flush=True)
            return
        for job, candidate, run in taken:
            try:
                _finish(job, candidate, run, tokens, root, seconds, len(taken), weights)
            except Exception:
                (job.folder(root) / "error.txt").write_text(traceback.format_exc())
        taken.clear()


def _claim(folder: Path) -> bool:
    """Whether this process is the first to take the run."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "result.json").exists():
        return False
    try:
        os.close(os.open(folder / "claimed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    (folder / "error.txt").unlink(missing_ok=True)
    return True


def _finish(
    job: Job,
    candidate: Candidate,
    run: LeanRun,
    tokens: TokenSet,
    root: Path,
    seconds: float,
    beside: int,
    weights: bool,
) -> None:
    """Score a run that is trained, and write its result."""
    rung, model, began = RUNGS[job.rung], run.model, time.perf_counter()
    losses = run.history()
    kept = max(1, len(losses) // 1_000)
    result: dict[str, Any] = {
        "candidate": candidate.name,
        "recipe": candidate.recipe,
        "rung": job.rung,
        "seed": job.seed,
        "model": candidate.model,
        "settings": asdict(run.config),
        "tokens": run.tokens,
        "order": order_hash(len(run.blocks), run.config),
        "corpus": tokens.facts,
        "width": model.config.hidden_size,
        "parameters": model.num_parameters(),
        "trainable_parameters": model.num_parameters(only_trainable=True),
        "losses": [round(fmean(losses[i : i + kept]), 5) for i in range(0, len(losses), kept)],
        "graph": bool(run.graphs),
        "why_not": run.why_not,
        "seconds": round(seconds, 3),
        "beside": beside,
        "device": torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "cpu",
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "scores": {},
    }
    run.graphs.clear()
    for split in rung.splits:
        if split not in tokens.splits:
            continue
        score, bins = score_tokens(model, tokens, split, run.config.context_eval, run.config.stride)
        written = score.to_dict() | bins | {"sources": tokens.splits[split].sources}
        written["nll"] = [round(x, 4) for x in written["nll"]]
        result["scores"][split] = {k: v for k, v in written.items() if k != "token_nll"}
    if job.seed == 0:
        result["learned"] = learned(model)
    result["scoring_seconds"] = round(time.perf_counter() - began, 3)
    folder = job.folder(root)
    if weights:
        own = {k: v for k, v in model.state_dict().items() if ".encoder." not in k and not k.startswith("lm_head")}
        half = {name: value.half().cpu().contiguous() for name, value in own.items()}
        write_atomically(folder / "weights.safetensors", lambda file: file.write(save(half)))
    write_json(folder / "result.json", result)
    (folder / "claimed").unlink(missing_ok=True)
    shown = {split: round(score["loss"], 4) for split, score in result["scores"].items()}
    print(f"{job.rung} {candidate.name} seed {job.seed}: {shown} {seconds:.1f} s beside {beside}", flush=True)


def order_hash(blocks: int, config: LeanConfig) -> str:
    """12 hexadecimal digits of the order in which blocks are seen."""
    return hashlib.sha256(json.dumps(data_order(blocks, config)).encode()).hexdigest()[:12]


def learned(model: Any) -> dict[str, list]:
    """What became of places, gates and kernels: the parameters of curve and mixers with one entry a channel, or few."""
    return {
        name: [round(x, 4) for x in value.detach().float().flatten().tolist()]
        for name, value in model.named_parameters()
        if (".curve." in name or ".mixers." in name or name.endswith("log_sink"))
        and not name.endswith(("projection.weight", "projection.bias"))
    }


def restored(weights: str | Path, candidate: str, seed: int, tokenizer: Any, encoder: str = "minilm") -> Any:
    """The model of a run from what ``--weights`` kept of it; the encoder is the same as ever.

    Raises:
        CurvekitError: the weights are not a run's of that candidate.
    """
    model = Candidate.parse(candidate).build(seed, encoder, tokenizer)
    missing, unexpected = model.load_state_dict(load_file(weights), strict=False)
    if unexpected or [name for name in missing if ".encoder." not in name and not name.startswith("lm_head")]:
        raise CurvekitError(f"{weights} holds other tensors than a {candidate!r} has")
    model.config.base_is_random, model.config._name_or_path = False, ""
    return model


# Tables


def load_results(source: str | Path, rung: str) -> dict[str, list[dict[str, Any]]]:
    """The results of a rung by candidate as it :attr:`Candidate.known_as`, each in the order of seeds.

    Args:
        source: a folder, or a file of :func:`collect`.
    """
    source = Path(source)
    every = _unpacked(source) if source.is_file() else map(read_json, sorted((source / rung).glob("*/result.json")))
    found: dict[str, list[dict[str, Any]]] = {}
    for result in every:
        if result["rung"] == rung:
            name = Candidate.parse(result["candidate"]).known_as
            found.setdefault(name, []).append(result | {"candidate": name})
    return {name: sorted(results, key=lambda each: each["seed"]) for name, results in found.items()}


Runs = Sequence[Mapping[str, Any]]


def of_common_seeds(a: Runs, b: Runs) -> tuple[list[Any], list[Any]]:
    """Of two candidates' runs those of the seeds that both have."""
    seeds = {run["seed"] for run in a} & {run["seed"] for run in b}
    return [run for run in a if run["seed"] in seeds], [run for run in b if run["seed"] in seeds]


def comparable(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], steps: bool = True) -> None:
    """Refuse to compare runs of other seeds, budget, data order or tokens.

    Args:
        steps: whether they must have trained for as many.

    Raises:
        CurvekitError: it names what differs.
    """
    budget = ("tokens", "order") if steps else ()
    free = {*OWN, "stride"} - ({"steps"} if steps else set())
    for x, y in zip(a, b, strict=False):
        pairs = {k: (x["settings"][k], y["settings"][k]) for k in sorted(x["settings"].keys() - free)}
        pairs |= {name: (x[name], y[name]) for name in ("rung", "seed", *budget, "corpus")}
        differing = [f"{name} ({one} against {other})" for name, (one, other) in pairs.items() if one != other]
        if differing:
            raise CurvekitError(f"{x['candidate']} and {y['candidate']} differ in {', '.join(differing)}")
    if len(a) != len(b):
        raise CurvekitError(f"{len(a)} seeds of {a[0]['candidate']} and {len(b)} of {b[0]['candidate']} are no pairs")


def difference(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], split: str, samples: int = 10_000
) -> PairedDifference:
    """The loss of candidate ``a`` minus that of ``b`` on a split, over documents and seeds, with its interval.

    Raises:
        CurvekitError: as :func:`comparable`.
    """
    comparable(a, b)
    return paired_bootstrap([score_of(each, split) for each in a], [score_of(each, split) for each in b], samples)


def score_of(result: Mapping[str, Any], split: str) -> LanguageModelScore:
    if split not in result["scores"]:
        raise CurvekitError(f"{result['candidate']} at the rung {result['rung']} has no scores of {split!r}")
    return LanguageModelScore.from_dict({**result["scores"][split], "token_nll": []})


def table(
    folder: str | Path, rung: str, split: str, baseline: str = PLAIN, samples: int = 2_000
) -> list[dict[str, Any]]:
    """A row a candidate, best first: loss, perplexity, bits a byte of each kind of source, difference to a baseline.

    Seeds that a candidate and the baseline both have are compared. Who trained for more or fewer steps than the rung's
    is left out; see :mod:`curvekit.experiments.equal_time`.
    """
    results = load_results(folder, rung)
    if baseline not in results:
        raise CurvekitError(f"the rung {rung} in {folder} has no result of the baseline {baseline!r}")
    rows = []
    for name, runs in results.items():
        if "steps" in Candidate.parse(name).training:
            continue
        mine, theirs = of_common_seeds(runs, results[baseline])
        if not mine:
            continue
        scores = [score_of(run, split) for run in mine]
        row: dict[str, Any] = {
            "candidate": name,
            "seeds": len(mine),
            "loss": fmean(score.loss for score in scores),
            "perplexity": float(np.exp(fmean(score.loss for score in scores))),
            "trainable_parameters": mine[0]["trainable_parameters"],
            "parameters": mine[0]["parameters"],
        }
        for kind in sorted(set(mine[0]["scores"][split]["sources"])):
            at = [i for i, source in enumerate(mine[0]["scores"][split]["sources"]) if source == kind]
            bits = [score.nll[at].sum() / score.bytes[at].sum() / np.log(2) for score in scores]
            row[f"bits_per_byte {kind}"] = float(fmean(bits))
        if name != baseline:
            found = difference(mine, theirs, split, samples)
            row |= found.figures() | {"per_seed": list(found.per_seed)}
        rows.append(row)
    corrected([row for row in rows if "p" in row])
    return sorted(rows, key=lambda row: row["loss"])


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`table` as Markdown."""
    kinds = [name for name in rows[0] if name.startswith("bits_per_byte")]
    heads = ["candidate", "seeds", "nats", "perplexity", *kinds, "difference", "95 %", "perplexity", "parameters"]
    lines = ["| " + " | ".join(heads) + " |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    for row in rows:
        cells = [row["candidate"], str(row["seeds"]), f"{row['loss']:.4f}", f"{row['perplexity']:.2f}"]
        cells += [f"{row[kind]:.4f}" for kind in kinds]
        if "difference" in row:
            cells += [f"{row['difference']:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}"]
            cells += [f"{row['relative_perplexity']:+.1%}"]
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join([*cells, f"{row['trainable_parameters']:,}"]) + " |")
    return "\n".join(lines) + "\n"


def as_latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`table` as a LaTeX tabular."""
    lines = [r"\begin{tabular}{lrrrr}", r"recipe & nats & perplexity & difference & 95\,\% \\ \hline"]
    for row in rows:
        name = row["candidate"].replace("_", r"\_")
        cells = [name, f"{row['loss']:.4f}", f"{row['perplexity']:.2f}"]
        if "difference" in row:
            cells += [f"${row['difference']:+.4f}$", f"${row['low']:+.4f}$ to ${row['high']:+.4f}$"]
        else:
            cells += ["", ""]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def collect(folder: str | Path, path: str | Path, brief: bool = False) -> int:
    """Write all results below a folder into one file, for :func:`scatter` on another machine; how many there are.

    Of what is the same in several, such as the documents' sizes, the file holds one. ``brief`` leaves out what no table
    and no figure needs: losses stand for longer stretches, and what was learned is kept of longer rungs' curves alone.
    """
    results = [read_json(found) for found in sorted(Path(folder).glob("*/*/result.json"))]
    shared: dict[str, Any] = {}
    packed = [_packed(_brief(each) if brief else each, shared) for each in results]
    lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in packed)
    text = f'{{"shared": {json.dumps(shared, separators=(",", ":"))},\n"results": [\n{lines}\n]}}\n'
    write_atomically(path, lambda file: file.write(text.encode()))
    return len(results)


_SHARED = ("tokens", "words", "bytes", "sources")  # of a score: the same wherever the documents are


def _packed(result: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """A result with names in the place of what others have too; those stand in ``shared``."""

    def named(value: Any) -> str:
        name = hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]
        shared[name] = value
        return name

    scores = {
        split: score | {part: named(score[part]) for part in _SHARED} for split, score in result["scores"].items()
    }
    return result | {"scores": scores, "corpus": named(result["corpus"])}


def _unpacked(path: str | Path) -> list[dict[str, Any]]:
    """The results of a file of :func:`collect`."""
    held = read_json(path, shape={"shared": dict, "results": [dict]})
    back = lambda value: held["shared"][value] if isinstance(value, str) else value  # noqa: E731
    for result in held["results"]:
        result["corpus"] = back(result["corpus"])
        for score in result["scores"].values():
            score |= {part: back(score[part]) for part in _SHARED}
    results: list[dict[str, Any]] = held["results"]
    return results


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    losses = result["losses"]
    kept = -(-len(losses) // BRIEF_LOSSES)
    learned = {k: v for k, v in result.get("learned", {}).items() if result["rung"] != "small" and ".norm." not in k}
    scores = {}
    for split, score in result["scores"].items():
        bins = {
            name: {"nats": [round(x, 2) for x in score[name]["nats"]], "tokens": score[name]["tokens"]}
            for name in ("by_position", "by_frequency")
        }
        scores[split] = score | bins | {"nll": [round(x, 2) for x in score["nll"]]}
    return result | {
        "losses": [round(fmean(losses[i : i + kept]), 4) for i in range(0, len(losses), kept)],
        "learned": learned,
        "scores": scores,
    }


def scatter(path: str | Path, folder: str | Path) -> int:
    """Undo :func:`collect`."""
    results = _unpacked(path)
    for result in results:
        job = Job(result["candidate"], result["rung"], result["seed"])
        write_json(job.folder(Path(folder)) / "result.json", result)
    return len(results)


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.ladder prepare | run | work | save | table | collect | scatter``."""
    parser = argparse.ArgumentParser(prog="curvekit.experiments.ladder", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        each = commands.add_parser(name, help=help)
        if name not in ("prepare", "save", "collect", "scatter"):
            each.add_argument("--folder", type=Path, required=True)
        if name in ("run", "work"):
            each.add_argument("--tokens", type=Path, required=True)
            each.add_argument("--encoder", default="minilm")
            each.add_argument("--beside", type=int, default=1)
            each.add_argument("--eager", action="store_true")
            each.add_argument("--weights", action="store_true")
            each.add_argument("--device")
            each.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
        return each

    each = command("prepare", "a corpus as tokens")
    each.add_argument("corpus", type=Path)
    each.add_argument("path", type=Path)
    each.add_argument("--other", type=Path, nargs="*", default=[], help="further held-out texts, one a file")
    each = command("run", "candidates by seeds on a rung")
    each.add_argument("rung", choices=RUNGS)
    each.add_argument("candidates", nargs="+")
    each.add_argument("--seeds", type=int, nargs="+", default=[0])
    each.add_argument("--processes", type=int, default=1)
    each.add_argument("--seconds", type=float)
    each = command("work", "what run starts")
    each.add_argument("jobs", type=Path)
    each.add_argument("--until", type=float)
    each = command("save", "kept weights of a run as a model that transformers loads")
    each.add_argument("weights", type=Path)
    each.add_argument("model", type=Path)
    each.add_argument("--candidate", required=True)
    each.add_argument("--seed", type=int, default=0)
    each = command("table", "what came out")
    each.add_argument("rung", choices=RUNGS)
    each.add_argument("split")
    each.add_argument("--baseline", default=PLAIN)
    each.add_argument("--format", choices=("markdown", "json", "latex"), default="markdown")
    each.add_argument("--samples", type=int, default=2_000)
    for name, help in (("collect", "all results as one file"), ("scatter", "one file as results")):
        each = command(name, help)
        each.add_argument("source", type=Path)
        each.add_argument("target", type=Path)
        if name == "collect":
            each.add_argument("--brief", action="store_true", help="what tables and figures need, and no more")

    given = parser.parse_args(arguments)
    if given.command == "prepare":
        prepare(given.corpus, given.path, other={path.stem: path.read_text("utf-8") for path in given.other})
    elif given.command == "run":
        run_ladder(
            given.candidates, given.rung, given.seeds, given.folder, given.tokens, encoder=given.encoder,
            processes=given.processes, beside=given.beside, seconds=given.seconds, graph=not given.eager,
            weights=given.weights, device=given.device, precision=given.precision,
        )  # fmt: skip
    elif given.command == "work":
        work(
            [Job(*each) for each in read_json(given.jobs)["jobs"]], given.folder, TokenSet.load(given.tokens),
            encoder=given.encoder, beside=given.beside, until=given.until, graph=not given.eager,
            weights=given.weights, device=given.device, precision=given.precision,
        )  # fmt: skip
    elif given.command == "save":
        if given.model.exists():
            raise CurvekitError(f"{given.model} is there already; choose another folder")
        tokenizer = base_tokenizer("mini")
        restored(given.weights, given.candidate, given.seed, tokenizer).save_pretrained(given.model)
        tokenizer.save_pretrained(given.model)
    elif given.command == "table":
        rows = table(given.folder, given.rung, given.split, given.baseline, given.samples)
        shown = {"markdown": as_markdown, "latex": as_latex, "json": lambda rows: json.dumps(rows, indent=1)}
        print(shown[given.format](rows))
    elif given.command == "collect":
        print(collect(given.source, given.target, given.brief), "results")
    else:
        print(scatter(given.source, given.target), "results")


if __name__ == "__main__":
    as_command(main)
