"""``curvekit constitution``: draft, critique, revise by written principles, and learn from it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from curvekit.cli.flags import Commands, command, path
from curvekit.cli.printing import say
from curvekit.cli.settings import add_settings, given
from curvekit.errors import CurvekitError
from curvekit.preferences.settings import PreferenceConfig

EXAMPLE = Path(__file__).parent.parent / "assets" / "constitutions" / "plain.yaml"
_STAGES = ("method", "pairs", "question", "rule", "reward")  # what the stages choose themselves


def add(commands: Commands) -> None:
    each = command(
        commands,
        "constitution",
        run,
        "teach a model written principles by constitutional AI; given again after a stop, it goes on",
        "  curvekit constitution --example > plain.yaml\n"
        "  curvekit constitution plain.yaml --critic rules --out runs/plain\n"
        "  curvekit constitution plain.yaml --base smollm2 --chat --critic smollm2 --prompts prompts.txt\n"
        "  curvekit constitution plain.yaml --critic http://127.0.0.1:8000/v1 --critic-model large",
        "curvekit constitution FILE [--critic CRITIC] [--out FOLDER] [SETTING ...]",
    )
    each.add_argument("file", metavar="FILE", type=path, nargs="?", help="the constitution, a YAML file")
    each.add_argument("--example", action="store_true", help="print a constitution to begin from")
    each.add_argument(
        "--critic",
        default="rules",
        metavar="CRITIC",
        help="rules; a base, such as smollm2, or a run's folder; or the address of an endpoint (default: %(default)s)",
    )
    each.add_argument("--critic-model", metavar="NAME", help="the model's name at the endpoint")
    each.add_argument(
        "--key-variable",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the endpoint's key, if it needs one (default: %(default)s)",
    )
    each.add_argument("--out", type=path, metavar="FOLDER", help="a folder (default: runs/ and the file's name)")
    add_settings(each, without=_STAGES, of=PreferenceConfig)


def run(arguments: argparse.Namespace) -> None:
    if arguments.example:
        sys.stdout.write(EXAMPLE.read_text(encoding="utf-8"))
        return
    if arguments.file is None:
        raise CurvekitError("no constitution is given; name a YAML file, or write one with --example")
    from curvekit.preferences.constituting import constitute
    from curvekit.preferences.constitution import read_constitution

    constitution = read_constitution(arguments.file)
    config = PreferenceConfig.from_dict(given(arguments, PreferenceConfig))
    critic = _critic(arguments)
    done = constitute(config, constitution, critic, arguments.out or Path("runs") / arguments.file.stem, say=say)
    for row in done["agreement"]["principles"]:
        kappa = "-" if row["kappa"] is None else f"{row['kappa']:.2f}"
        print(
            f"{row['principle']:<20}critic agrees with {row['rule']} in {row['agreement']:.0%} of {row['answers']} "
            f"answers [{row['low']:.0%}, {row['high']:.0%}], kappa {kappa}; kept {row['kept_before']:.0%} -> "
            f"{row['kept_after']:.0%}"
        )
    for stage in ("sft", "dpo"):
        change = done[stage].metrics["changes"]["judge"]
        ends = done[stage].metrics
        print(
            f"{stage:<20}principles kept {ends['start']['judge']:.3f} -> {ends['end']['judge']:.3f} "
            f"({change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]); {done[stage].folder}"
        )


def _critic(arguments: argparse.Namespace):
    from curvekit.preferences.critics import EndpointCritic, LocalCritic, RuleCritic

    name = arguments.critic
    if name == "rules":
        return RuleCritic()
    if name.startswith(("http://", "https://")):
        if not arguments.critic_model:
            raise CurvekitError("the critic is an endpoint, which may have several models; give --critic-model")
        return EndpointCritic(name, arguments.critic_model, os.environ.get(arguments.key_variable))
    from curvekit.bases.opening import open_model

    model, tokenizer = open_model(name)
    return LocalCritic(Path(name).name, model, tokenizer)
