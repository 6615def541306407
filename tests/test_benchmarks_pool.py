"""Processes of long benchmarks: every task's result, and an end at Ctrl-C and SIGTERM."""

import multiprocessing
import os
import signal
import time

import pytest

from benchmarks.pool import results


def test_every_task_has_its_result():
    with results(abs, [-3, -1, 2], 2) as found:
        assert sorted(found) == [(-3, 3), (-1, 1), (2, 2)]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_processes(sent):
    before = signal.getsignal(signal.SIGTERM)
    of_shell = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(SystemExit) as info, results(time.sleep, [60, 60], 1):
            os.kill(os.getpid(), sent)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, of_shell)
    assert info.value.code == 130
    assert not multiprocessing.active_children() and signal.getsignal(signal.SIGTERM) == before
