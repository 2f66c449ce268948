# SPDX-License-Identifier: Apache-2.0
"""Budgets and interruptions, on a clock that the test moves."""

import json

import pytest
from deeplab_bench.measuring.campaign import Campaign, Task
from deeplab_bench.records import read_record

from deeplab_infer.commands.cli import make_console
from deeplab_infer.errors import DeepLabError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def task(self, name, expected, takes=None, then=None):
        def run(limit):
            self.now += expected if takes is None else takes
            if then is not None:
                raise then
            return {"name": name, "key": name, "error": "no figure", "limit": limit}

        return Task(name, expected, run)


def run(campaign, tasks):
    return campaign.run(tasks, make_console(stderr=True, quiet=True))


def names(record):
    return [result["name"] for result in record.results]


def test_what_does_not_fit_is_left_out_and_smaller_tasks_still_run():
    clock = Clock()
    tasks = [clock.task("a", 40), clock.task("b", 40), clock.task("c", 40), clock.task("d", 10)]
    record = run(Campaign("run", 95, clock=clock), tasks)
    assert names(record) == ["a", "b", "d"]
    assert record.left_out == [{"name": "c", "reason": "would not fit into the budget of 95 s"}]
    assert record.complete


def test_estimates_follow_what_earlier_tasks_took():
    clock = Clock()
    record = run(Campaign("run", 100, clock=clock), [clock.task("slow", 10, takes=50), clock.task("next", 20)])
    assert names(record) == ["slow"]


def test_without_a_budget_everything_runs_and_has_no_limit():
    clock = Clock()
    record = run(Campaign("run", clock=clock), [clock.task(str(i), 1e6) for i in range(3)])
    assert [result["limit"] for result in record.results] == [None] * 3


def test_a_task_is_told_when_to_give_up():
    clock = Clock()
    record = run(Campaign("run", 100, clock=clock), [clock.task("a", 60), clock.task("b", 30)])
    assert [result["limit"] for result in record.results] == [130, 70]


def test_an_interruption_keeps_what_is_measured_and_says_what_is_not(tmp_path):
    clock, path = Clock(), tmp_path / "a.json"
    tasks = [clock.task("a", 1), clock.task("b", 1, then=KeyboardInterrupt), clock.task("c", 1)]
    record = run(Campaign("run", path=str(path), clock=clock), tasks)
    assert not record.complete
    assert record.left_out == [{"name": name, "reason": "interrupted"} for name in "bc"]
    assert names(read_record(path)) == ["a"]
    assert not read_record(path).complete


def test_the_file_grows_with_every_task(tmp_path):
    """Whatever ends the process, what was measured is there."""
    clock, path, seen = Clock(), tmp_path / "a.json", []

    def look(limit):
        seen.append(json.loads(path.read_text()) if path.exists() else None)
        return {"name": "look", "key": "look", "error": "none"}

    run(Campaign("run", path=str(path), clock=clock), [clock.task("a", 1), Task("look", 1, look)])
    assert [result["name"] for result in seen[0]["results"]] == ["a"]
    assert seen[0]["complete"] is False
    assert read_record(path).complete


def test_a_task_may_give_several_results():
    clock = Clock()
    several = Task("both", 1, lambda limit: [{"name": "a", "error": ""}, {"name": "b", "error": ""}])
    assert names(run(Campaign("run", clock=clock), [several])) == ["a", "b"]


def test_bad_budget_and_place(tmp_path):
    with pytest.raises(DeepLabError, match="--budget must be positive"):
        Campaign("run", 0.0)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((OSError, DeepLabError)):
        Campaign("run", path=str(tmp_path / "file" / "a.json"))
