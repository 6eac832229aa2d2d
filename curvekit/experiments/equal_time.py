r"""The claims of the ladder once more, at equal training time: what a step costs, what plain GPT-2 reaches meanwhile.

    python -m curvekit.experiments.equal_time TOKENS TIMES plain CANDIDATE ...

times the steps of all candidates in turns on this machine and writes TIMES. A candidate whose step takes r times as
long as plain's leaves plain r times as many steps, so plain is trained for more steps too (``plain:steps=1350``), and
its loss between its two budgets is taken straight in the logarithm of the steps. With l and m the losses of a document
after s and t steps,

    l(r) = l + (m - l) ln r / ln(t / s),     1 <= r <= t / s

where m - l is the mean over the seeds that were trained for both, so that each seed of a claim keeps its own l. What
the longer budget gains differs little between seeds, and that little is not in the intervals.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from curvekit.bases.tokenizer import base_tokenizer
from curvekit.errors import CurvekitError, as_command
from curvekit.evaluation.metrics import LanguageModelScore
from curvekit.evaluation.significance import corrected, paired_bootstrap
from curvekit.evaluation.timing import machine
from curvekit.experiments.ladder import PLAIN, Candidate, comparable, load_results, of_common_seeds, score_of
from curvekit.files import read_json, write_json
from curvekit.training.lean import PRECISIONS, LeanConfig, LeanRun, TokenSet
from curvekit.training.memory import kept

TIMES = {
    "machine": str, "threads": int, "precision": str, "versions": dict, "tokens": int, "seconds": {str: [float]},
}  # fmt: skip


def timed(
    candidates: Sequence[str],
    tokens: TokenSet,
    rounds: int,
    encoder: str = "minilm",
    precision: str = PRECISIONS[0],
) -> dict[str, Any]:
    """Seconds of each round's step of every candidate, whose order turns by one from round to round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, tokenizer = LeanConfig(steps=rounds + 2, precision=precision), base_tokenizer("mini")
    blocks = tokens.blocks(config.block_size, device)
    runs = {
        name: LeanRun(Candidate.parse(name).build(0, encoder, tokenizer).to(device), config, blocks)
        for name in candidates
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with kept(device.type == "cpu"):
        for number in range(rounds + 2):
            turn = number % len(candidates)
            for name in (*candidates[turn:], *candidates[:turn]):
                began = time.perf_counter()
                runs[name].advance(number)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if number >= 2:  # the first steps set things up
                    seconds[name].append(round(time.perf_counter() - began, 5))
    return {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "precision": config.precision,
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "tokens": config.block_size * config.batch_size,
        "seconds": seconds,
    }


def load(path: str | Path) -> dict[str, Any]:
    """What :func:`timed` found, by what candidates are known as.

    Raises:
        CurvekitError: it is no such file, or has no steps of plain to compare with.
    """
    times: dict[str, Any] = read_json(path, shape=TIMES)
    times["seconds"] = {Candidate.parse(name).known_as: each for name, each in times["seconds"].items()}
    if not times["seconds"].get(PLAIN):
        raise CurvekitError(f"{path} has no steps of {PLAIN!r}, with which all others are compared")
    return times


def ratio(times: Mapping[str, Any], candidate: str) -> float:
    """How many times plain's step a candidate's takes: the median over rounds."""
    pairs = zip(times["seconds"][candidate], times["seconds"][PLAIN], strict=True)
    return median(own / plain for own, plain in pairs)


def gained(
    short: Sequence[Mapping[str, Any]], long: Sequence[Mapping[str, Any]], split: str
) -> tuple[np.ndarray, float, int]:
    """What each document gained by more steps in nats, the mean over seeds; ln of how many times more; how many seeds.

    Raises:
        CurvekitError: the two have no seed together, or differ in more than their steps.
    """
    a, b = of_common_seeds(short, long)
    if not a:
        raise CurvekitError(f"{PLAIN} was trained for no seed at both budgets")
    comparable(a, b, steps=False)
    share = math.log(b[0]["settings"]["steps"] / a[0]["settings"]["steps"])
    gains = [score_of(y, split).nll - score_of(x, split).nll for x, y in zip(a, b, strict=True)]
    return np.mean(gains, axis=0), share, len(a)


def at(score: LanguageModelScore, gain: np.ndarray, share: float, times: float) -> LanguageModelScore:
    """A score as it would be after so many times the steps; ``gain`` and ``share`` of :func:`gained`.

    Raises:
        CurvekitError: more steps than were trained.
    """
    if math.log(times) > share + 1e-9:
        raise CurvekitError(f"{times:.2f} times the steps are more than the {math.exp(share):.2f} that were trained")
    return replace(score, nll=score.nll + gain * max(0.0, math.log(times)) / share)


def rows_of(
    results: str | Path,
    times: Mapping[str, Any],
    rung: str = "medium",
    split: str = "test",
    longer: str = "plain:steps=1350",
    samples: int = 2_000,
) -> list[dict[str, Any]]:
    """A row a candidate that was timed, best first: its ratio, and its difference to plain at equal time.

    A candidate whose step is quicker than plain's is compared at equal steps, which plain has the better of.

    Raises:
        CurvekitError: plain was not trained for more steps, or not for enough.
    """
    found = load_results(results, rung)
    for name in (PLAIN, longer):
        if name not in found:
            raise CurvekitError(f"{results} has no run of {name!r} at the rung {rung}")
    gain, share, _ = gained(found[PLAIN], found[longer], split)
    rows: list[dict[str, Any]] = []
    for name in times["seconds"]:
        if name == PLAIN or name not in found:
            continue
        mine, theirs = of_common_seeds(found[name], found[PLAIN])
        comparable(mine, theirs)
        slower = ratio(times, name)
        longer_trained = [at(score_of(run, split), gain, share, slower) for run in theirs]
        paired = paired_bootstrap([score_of(run, split) for run in mine], longer_trained, samples)
        rows.append({"candidate": name, "seeds": len(mine), "ratio": slower} | paired.figures())
    corrected(rows)
    return sorted(rows, key=lambda row: row["difference"])


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m curvekit.experiments.equal_time TOKENS TIMES plain CANDIDATE ...``."""
    parser = argparse.ArgumentParser(
        prog="curvekit.experiments.equal_time", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("tokens", type=Path, help="the file of `ladder prepare`")
    parser.add_argument("times", type=Path, help="the JSON file that is written")
    parser.add_argument("candidates", nargs="+", help="the first is plain")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each (default: 20)")
    parser.add_argument("--threads", type=int, help="of the CPU (default: as many as torch takes)")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    given = parser.parse_args(arguments)
    if given.candidates[0] != PLAIN:
        parser.error(f"the first candidate is {PLAIN}, with which all others are compared")
    if given.rounds < 1:
        parser.error(f"--rounds is {given.rounds}; give 1 or more")
    if given.threads:
        torch.set_num_threads(given.threads)
    times = timed(given.candidates, TokenSet.load(given.tokens), given.rounds, given.encoder, given.precision)
    write_json(given.times, times)
    for name in given.candidates:
        print(f"{name}: {1000 * median(times['seconds'][name]):.1f} ms a step, {ratio(times, name):.3f} of plain's")


if __name__ == "__main__":
    as_command(main)
