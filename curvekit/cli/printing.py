"""What several commands print: a run's figures, news of the work on standard error, the command that was given."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def print_metrics(metrics: Mapping[str, Any]) -> None:
    for name in ("perplexity", "word_perplexity", "bits_per_byte", "token_accuracy", "bleu"):
        if metrics.get(name) is not None:
            print(f"{name.replace('_', ' '):<18}{metrics[name]:.4f}")
    task = metrics.get("task") or {}
    for name, value in task.items():
        if isinstance(value, float) and name not in ("perplexity", "nats", "seconds"):
            print(f"{name.replace('_', ' '):<18}{value:.2f}")
    if task:
        print(f"{'answers':<18}{', '.join(f'{count:,} {name}' for name, count in task['counts'].items())}")
    print(f"{'sees the future':<18}{'yes: these figures mean nothing' if metrics['leaks'] else 'no'}")


def say(text: str) -> None:
    print(text, file=sys.stderr)


def typed(arguments: argparse.Namespace) -> str:
    """The command that was given, for a page that others read: what stands elsewhere on this machine by its name."""
    return shlex.join(["curvekit", *map(_elsewhere, arguments.argv)])


def _elsewhere(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if Path(value).is_absolute() or value.startswith(("~", "..")):
        value = f"path/to/{Path(value).name}"
    return flag + equals + value
