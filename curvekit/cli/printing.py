"""What several commands print: a run's figures on standard output, news of the work on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
