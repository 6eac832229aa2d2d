"""The soak, for some seconds: clients of every kind, of which none sees an error, and a memory that was watched."""

from __future__ import annotations

from benchmarks.soak import soak


def test_clients_of_every_kind_see_no_error_and_the_memory_is_watched():
    told = soak("mini", 5.0, 4)
    assert told["errors"] == 0 and told["status_5xx"] == [], told
    assert told["requests"] >= 8 and told["tokens"] > 0
    assert told["warm_megabytes"] > 50 and len(told["megabytes_by_minute"]) == 1
