"""``curvekit prefer``: teach a model what people, a rule or a constitution prefer, and show what it cost."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from curvekit.cli.flags import Commands, command, listed, path
from curvekit.cli.settings import add_settings, given
from curvekit.errors import CurvekitError
from curvekit.preferences.settings import PreferenceConfig

if TYPE_CHECKING:
    from curvekit.preferences.runs import PreferenceRun


def add(commands: Commands) -> None:
    each = command(
        commands,
        "prefer",
        run,
        "train on preferences: ratings, pairs or the score of a rule; given again after a stop, it goes on",
        "  curvekit prefer --pairs ratings.jsonl --out runs/dpo\n"
        "  curvekit prefer --method ppo --rule full_sentence --corpus wikitext-2 --out runs/ppo\n"
        "  curvekit prefer --method reward --pairs pairs.csv --out runs/reward\n"
        "  curvekit prefer --method rloo --reward runs/reward --held-out no_numbers --out runs/rloo",
        "curvekit prefer [--out FOLDER] [SETTING ...]",
    )
    each.add_argument(
        "--out", type=path, metavar="FOLDER", help="the run's folder (default: runs/ and a name made of the settings)"
    )
    each.add_argument(
        "--seeds", nargs="+", metavar="N", help="several runs that differ in their seed alone, in OUT/seedN"
    )
    add_settings(each, of=PreferenceConfig)


def run(arguments: argparse.Namespace) -> None:
    from curvekit.preferences.preferring import prefer

    config = PreferenceConfig.from_dict(given(arguments, PreferenceConfig)).validate()
    out = arguments.out or Path("runs") / config.slug()
    if arguments.seeds is None:
        _print(prefer(config, out))
        return
    seeds = listed(arguments.seeds)
    if wrong := [seed for seed in seeds if not seed.isdecimal()]:
        raise CurvekitError(f"seeds holds {wrong[0]!r}; give whole numbers from 0 on, such as 0 1 2")
    for seed in seeds:
        _print(prefer(replace(config, seed=int(seed)).validate(), out / f"seed{seed}"))


def _print(done: PreferenceRun) -> None:
    config, metrics = done.config, done.metrics
    if config.method == "reward":
        for name in ("train_accuracy", "held_out_accuracy"):
            if metrics[name] is not None:
                print(f"{name.replace('_', ' '):<18}{metrics[name]:.4f}")
    else:
        for name, before, after, change in lines(metrics):
            print(f"{name:<18}{before:>9.4f} -> {after:.4f}   {change}")
        if "held_out_accuracy" in metrics:
            interval = f"[{metrics['held_out_low']:.2f}, {metrics['held_out_high']:.2f}]"
            told = f"{metrics['held_out_accuracy']:.2f} {interval} of {metrics['held_out_pairs']} pairs"
            print(f"{'held-out pairs':<18}prefers the chosen answer in {told}")
        print(f"{'KL':<18}{metrics['kl']:.4f} nats an answer")
        if wins := metrics["win_rate"]:
            print(f"{'win rate':<18}{wins['rate']:.2f} [{wins['low']:.2f}, {wins['high']:.2f}] by {metrics['judge']}")
    print(f"{'run':<18}{done.folder}")


def lines(metrics: dict) -> list[tuple[str, float, float, str]]:
    """Name, start, end and change with its interval, of what a run measured."""
    found = []
    for name in ("reward", "judge", "tokens", "perplexity"):
        change = metrics["changes"][name]
        shown = "+.2%" if name == "perplexity" else "+.3f"
        between = "" if change["low"] is None else f" [{change['low']:{shown}}, {change['high']:{shown}}]"
        told = f"{change['difference']:{shown}}{between}"
        shown_name = {"judge": "held-out reward", "tokens": "length"}.get(name, name)
        found.append((shown_name, metrics["start"][name], metrics["end"][name], told))
    return found
