"""The soak, for some seconds: clients of every kind, of which none sees an error, and a memory that was watched."""

from __future__ import annotations

from benchmarks.soak import levels_of, soak


def test_clients_of_every_kind_see_no_error_and_the_memory_is_watched():
    told = soak("mini", 5.0, 4)
    assert told["errors"] == 0 and told["status_5xx"] == [], told
    assert told["requests"] >= 8 and told["tokens"] > 0
    assert len(told["megabytes"]) >= 2 and min(told["megabytes"]) > 50 and told["highest_megabytes"] > 50


def test_a_leak_is_growth_and_one_long_prompt_is_none():
    steady = [(float(second), 800 + 60 * (second == 200)) for second in range(600)]
    assert levels_of(steady, 60.0) == [800.0] * 10
    leaking = [(float(second), 800 + second) for second in range(600)]
    levels = levels_of(leaking, 60.0)
    assert max(levels[1:]) - levels[1] == 480
    assert len(levels_of([(s / 10, 5) for s in range(52)], 2.5)) == 2, "a stretch that hardly began is none"
