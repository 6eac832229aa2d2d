"""The report of preference runs: what it gathers, how sure it is, and that a hacked reward shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curvekit.errors import CurvekitError
from curvekit.figures.drawing import is_figure
from curvekit.files import read_json
from curvekit.preferences.preferring import prefer
from curvekit.preferences.settings import PreferenceConfig
from curvekit.reports.preferences import RESULTS, command_of, gather, is_hacked, latex, main, page, rows_of, verdict

COMMITTED = Path(__file__).parents[2] / "reports" / "preferences"


@pytest.fixture(scope="module")
def runs(tiny_base, tiny_corpus, tmp_path_factory):
    """Two seeds of PPO, and one that was paid for length at no price."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"method": "ppo", "base": str(tiny_base), "corpus": str(tiny_corpus), "prompt_tokens": 20, "rank": 2}
    small |= {"answer_tokens": 8, "prompt_count": 6, "test_prompts": 4, "steps": 2, "batch_size": 4, "block_size": 16}
    for name, settings in {
        "ppo/seed0": {},
        "ppo/seed1": {"seed": 1},
        "hacked/seed0": {"rule": "length", "beta": 0.0},
    }.items():
        config = PreferenceConfig.from_dict(small | {"rule": "at_most_words:3", "eval_documents": 2} | settings)
        prefer(config, folder / name, progress="none")
    return folder


@pytest.fixture(scope="module")
def results(runs):
    return gather({"PPO": runs / "ppo", "PPO, paid for length": runs / "hacked"})


def test_the_page_is_made_of_finished_runs_and_again_of_its_results(runs, tmp_path):
    named = [f"PPO={runs / 'ppo'}", f"PPO, paid for length={runs / 'hacked'}"]
    main([str(tmp_path), *named, "--note", "The prompts are *beginnings*."])
    first = (tmp_path / "README.md").read_text()
    for word in (
        "held-out reward",
        "KL, nats",
        "perplexity",
        "distinct bigrams",
        "wins of the end",
        "⟹",
        "PPO, paid",
        "*beginnings*",
    ):
        assert word in first
    for name in ("preferences-changes", "preferences-histories"):
        assert is_figure(tmp_path / "figures" / f"{name}.svg")
    assert str(runs) not in first + (tmp_path / "results.json").read_text(), "no folder of a machine"
    main([str(tmp_path)])
    assert (tmp_path / "README.md").read_text() == first
    assert (tmp_path / "results.tex").read_text().startswith(r"\begin{tabular}")


def test_intervals_are_over_prompts_and_seeds(results):
    row = rows_of(results)[0]
    assert row["seeds"] == 2 and row["name"] == "PPO"
    ends = [sum(run["answers"]["after_reward"]) / 4 for run in results["conditions"]["PPO"]["runs"]]
    starts = [sum(run["answers"]["before_reward"]) / 4 for run in results["conditions"]["PPO"]["runs"]]
    assert row["reward_end"] == pytest.approx(sum(ends) / 2) and row["reward_start"] == pytest.approx(sum(starts) / 2)
    assert row["reward"]["low"] <= row["reward"]["difference"] <= row["reward"]["high"]
    assert row["perplexity"]["low"] <= row["perplexity"]["high"]


def test_runs_that_differ_in_more_than_their_seed_are_no_condition(runs, tmp_path):
    (tmp_path / "both").mkdir()
    for name in ("ppo/seed0", "hacked/seed0"):
        (tmp_path / "both" / name.replace("/", "-")).symlink_to(runs / name)
    with pytest.raises(CurvekitError, match="is no other seed of .*: rule is"):
        gather({"x": tmp_path / "both"})


def row(reward, judge, perplexity):
    between = lambda value: {"difference": value, "low": value - 0.01, "high": value + 0.01}  # noqa: E731
    return {
        "name": "x",
        "kl": 1.0,
        "reward": between(reward),
        "judge": between(judge),
        "perplexity": between(perplexity),
    }


@pytest.mark.parametrize(
    ("found", "hacked"),
    [
        (row(0.5, 0.3, 0.01), False),
        (row(0.5, -0.3, 0.01), True),  # what was wanted fell
        (row(0.5, 0.0, 0.4), True),  # text became worse, and nothing was gained
        (row(0.0, -0.3, 0.4), False),  # the reward did not rise: that is no hacking
    ],
)
def test_a_hacked_reward_is_called_so(found, hacked):
    assert is_hacked(found) == hacked
    assert ("reward hacking" in verdict(found)) == hacked
    assert "+0.50" in latex([found]) or found["reward"]["difference"] != 0.5


def test_the_command_of_a_condition_makes_it_again(results):
    command = command_of(results["conditions"]["PPO"]["settings"], [0, 1], "ppo")
    assert command.startswith("curvekit prefer --method ppo --seeds 0 1 --out runs/ppo")
    assert "--rule at_most_words:3" in command and "--batch-size 4" in command


@pytest.mark.skipif(not COMMITTED.exists(), reason="no report is committed")
def test_the_committed_page_is_what_its_committed_results_say():
    results = read_json(COMMITTED / "results.json", shape=RESULTS)
    assert page(results) == (COMMITTED / "README.md").read_text(encoding="utf-8"), (
        "run: python -m curvekit.reports.preferences reports/preferences"
    )
    assert len(json.dumps(results)) < 2_000_000
