"""The benchmarks: pairs interleave, ratios and memory are what they say, rows merge, both sides compute the same."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import GROUPS, harness  # noqa: E402
from benchmarks.harness import Case, Different, Goal, Settings  # noqa: E402
from benchmarks.table import benchmarks_block, page, summary, table  # noqa: E402
from curvekit.cli import main  # noqa: E402
from curvekit.cli.readme import BENCHMARKS_BEGIN, BENCHMARKS_END  # noqa: E402
from curvekit.errors import CurvekitError  # noqa: E402

CPU = Settings(quick=True, device=torch.device("cpu"))


class Clock:
    """Time that passes only when a side says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def side(self, name: str, seconds: float, log: list[str]):
        def call() -> None:
            log.append(name)
            self.now += seconds

        return call


def row(name: str = "a", group: str = "attention", **changes) -> dict:
    found = {
        "group": group, "name": name, "ours": "mine", "peer": "theirs", "unit": "tokens",
        "goal": {"kind": "ratio", "value": 0.95}, "agrees": True, "check": "they agree", "ratio": 1.25, "low": 1.2,
        "high": 1.3, "pairs": 5, "ours_seconds": 1.0, "peer_seconds": 1.25, "ours_rate": 100.0, "peer_rate": 80.0,
        "ours_memory": 2**21, "peer_memory": 2**22, "met": True, "quick": False, "device": "a machine",
        "versions": {"torch": "2"},
    }  # fmt: skip
    return found | changes


def test_pairs_interleave_and_take_turns_in_going_first():
    clock, log = Clock(), []
    ours, peer = harness.alternate(clock.side("o", 2.0, log), clock.side("p", 3.0, log), 1.0, clock)
    assert ours == [2.0] * harness.LEAST_PAIRS and peer == [3.0] * harness.LEAST_PAIRS
    assert "".join(log[-2 * harness.LEAST_PAIRS :]) == "oppooppoop"


def test_short_calls_are_repeated_and_time_ends_a_row():
    clock, log = Clock(), []
    ours, _ = harness.alternate(clock.side("o", 0.01, log), clock.side("p", 0.02, log), 1.0, clock)
    assert ours[0] == pytest.approx(0.01) and harness.LEAST_PAIRS < len(ours) < harness.MOST_PAIRS
    assert log.count("o") > log.count("p")  # more repetitions of the shorter call in a turn


def test_the_ratio_is_that_of_throughputs_and_its_interval_holds_it():
    value, low, high = harness.ratio([1.0, 1.1, 0.9, 1.0, 1.2], [2.0, 2.2, 1.8, 2.0, 9.0])
    assert value == pytest.approx(2.0) and low <= value <= high
    assert harness.ratio([1.0] * 5, [2.0] * 5, work=10.0)[0] == pytest.approx(20.0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_peak_memory_counts_what_a_call_needs_each_time():
    def call() -> None:
        torch.ones(2**24)  # 64 MiB

    for _ in range(2):
        assert 0.9 < harness.peak_memory(call, CPU.device) / 2**26 < 1.5


def test_a_row_is_replaced_by_its_name_and_groups_keep_their_order(tmp_path):
    path = tmp_path / "cpu.json"
    for each in (row("a", "curve"), row("b"), row("c"), row("b", ratio=3.0)):
        harness.merge(path, each)
    rows = json.loads(path.read_text())["rows"]
    assert [(each["group"], each["name"]) for each in rows] == [("attention", "b"), ("attention", "c"), ("curve", "a")]
    assert rows[0]["ratio"] == 3.0


def case(check, goal: Goal | None = None) -> Case:
    return Case("one", "mine", "theirs", lambda: None, lambda: None, check, goal, work=2.0, peer_work=1.0)


def test_slowness_fails_no_benchmark_and_a_difference_does(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "cases", lambda *_: iter([case(lambda: "equal", Goal("ratio", 1e9))]))
    harness.run(["curve"], tmp_path, CPU, lambda _: None)

    def differ() -> str:
        return harness.same(torch.ones(1), torch.zeros(1), 1e-3, "results")

    monkeypatch.setattr(harness, "cases", lambda *_: iter([case(differ)]))
    with pytest.raises(CurvekitError, match="curve, one: results differ"):
        harness.run(["curve"], tmp_path, CPU, lambda _: None)
    (found,) = json.loads((tmp_path / harness.file_name(CPU)).read_text())["rows"]
    assert found["agrees"] is False and found["met"] is None


def test_results_that_are_no_numbers_are_not_the_same():
    with pytest.raises(Different):
        harness.same(torch.tensor([math.nan]), torch.ones(1), 1.0, "results")


def test_an_unknown_group_is_refused_before_anything_is_measured(tmp_path, capsys):
    assert main(["bench", "atention", "--out", str(tmp_path)]) == 2
    assert "did you mean" in capsys.readouterr().err.lower() or not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("group", ["attention", "curve", "training", "generation", "perplexity", "packing"])
def test_both_sides_of_every_row_compute_the_same(group):
    names = [each.name for each in harness.cases(group, CPU) if each.check()]
    assert names and len(names) == len(set(names))


def test_the_table_says_what_was_measured():
    rows = [row("forward and backward, T = 128"), row("forward and backward, T = 512", ratio=0.8, ours_memory=2**23)]
    assert "| 1.25 [1.20, 1.30] | ≥ 0.95 | yes | 100 tokens | 80 tokens | 2 MiB / 4 MiB | 5 |" in table(rows)
    mean, memory = summary(rows)
    assert "1.00 times" in mean and "grows 4.0 times while T grows 4 times" in memory
    assert "they agree" in page(rows, "cpu") and "a machine" in page(rows, "cpu")


def test_the_readme_is_filled_between_its_marks(tmp_path):
    out, readme = tmp_path / "out", tmp_path / "README.md"
    harness.merge(out / "cpu.json", row())
    harness.merge(out / "cpu-quick.json", row("quick one", quick=True))
    readme.write_text(f"before\n{BENCHMARKS_BEGIN}\nold\n{BENCHMARKS_END}\nafter\n")
    assert main(["bench", "--out", str(out), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "1.25 [1.20, 1.30]" in text and "quick one" not in text


def test_the_readme_shows_the_committed_rows():
    folder = ROOT / "reports" / "benchmarks"
    if not list(folder.glob("*.json")):
        pytest.skip("reports/benchmarks has no rows yet")
    shown = (ROOT / "README.md").read_text().partition(BENCHMARKS_BEGIN)[2].partition(BENCHMARKS_END)[0]
    assert shown.strip() == benchmarks_block(folder).strip(), "run: curvekit bench --readme README.md"


def test_the_figure_marks_goals_on_a_logarithmic_axis():
    from curvekit.figures import benchmark_ratios

    figure = benchmark_ratios(
        [row(), row("b", ratio=30.0, low=20.0, high=40.0, goal=None), row("c", ratio=0.5, low=0.4, high=0.6)]
    )
    (ax,) = figure.axes
    assert ax.get_xscale() == "log" and len(ax.get_yticklabels()) == 3
    low, high = ax.get_xlim()
    assert low < 0.4 and high > 40


def test_every_group_has_its_room():
    rooms = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert set(GROUPS) <= rooms
