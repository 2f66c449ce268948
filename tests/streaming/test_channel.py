# SPDX-License-Identifier: Apache-2.0
"""Bounded hand-over: order, ends, drops, and memory."""

import threading
import time

from deeplab_infer.streaming.channel import END, NOTHING, Budget, Channel


def test_order_bound_and_end():
    channel = Channel(3)

    def produce():
        for number in range(50):
            channel.put(number)
        channel.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    got = []
    while (item := channel.get()) is not END:
        got.append(item)
    thread.join()
    assert got == list(range(50))
    assert 1 <= channel.peak <= 3


def test_newest_wins():
    channel = Channel(2)
    left = [channel.put_newest(number) for number in range(5)]
    assert left == [[], [], [0], [1], [2]]
    channel.finish()
    assert [channel.get(), channel.get(), channel.get()] == [3, 4, END]


def test_waiting_ends_in_time_and_when_the_producer_waits():
    channel = Channel(2)
    assert channel.get(time.perf_counter() + 0.01) is NOTHING
    channel.hold(True)
    assert channel.get(time.perf_counter() + 1000) is NOTHING
    channel.put(1)
    assert channel.get(time.perf_counter() + 1000) == 1


def test_closing_lets_nobody_wait():
    channel, budget = Channel(1), Budget(10)
    channel.put(1)
    assert budget.take(8)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(channel.put(2))),
        threading.Thread(target=lambda: answers.append(budget.take(8))),
    ]
    for thread in threads:
        thread.start()
    channel.close()
    budget.close()
    for thread in threads:
        thread.join(5)
    assert answers == [False, False]
    assert channel.get() is END


def test_budget():
    budget = Budget(10)
    assert budget.try_take(30)  # alone, anything goes
    assert not budget.try_take(1)
    budget.give(30)
    assert budget.try_take(4) and budget.try_take(6)
    assert not budget.try_take(1)
    budget.give(4)
    assert budget.try_take(4)
    assert budget.peak == 30
