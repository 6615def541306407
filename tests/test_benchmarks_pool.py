"""Processes of long benchmarks: every task's result, and an end at Ctrl-C."""

import multiprocessing
import time

import pytest

from benchmarks.pool import results


def test_every_task_has_its_result():
    with results(abs, [-3, -1, 2], 2) as found:
        assert sorted(found) == [(-3, 3), (-1, 1), (2, 2)]


def test_ctrl_c_ends_the_processes():
    with pytest.raises(SystemExit) as info, results(time.sleep, [600, 600], 1):
        raise KeyboardInterrupt
    assert info.value.code == 130
    assert not multiprocessing.active_children()
