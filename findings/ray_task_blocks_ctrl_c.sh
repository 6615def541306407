#!/usr/bin/env bash
# One would guess that a program started by a Ray task can be ended as anywhere: SIGINT is its KeyboardInterrupt.
# Workers of Ray block SIGINT, and a program that a task starts inherits that: a SIGINT that is sent to it waits for
# ever, so that it neither stops nor stores its state. A task that passes on its own cancellation and waits for the
# program, the polite way, then hangs together with the ray.get of it.
# It matters to users of kanpde who run `python -m kanpde.solve` in tasks of their own: Ctrl-C is what a run stores its
# checkpoint at. What helps is signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT}) around the start.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ray==2.60.0
HOME="$folder" RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - <<'PYTHON'
import signal
import subprocess
import sys
import time

import ray

print("ray", ray.__version__)
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")


@ray.remote(max_retries=0)
def ended(unblock: bool) -> bool:
    """Whether a program ends by SIGINT, within five seconds."""
    if unblock:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    program = subprocess.Popen(["sleep", "60"])
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    try:
        return program.wait(5) == -signal.SIGINT
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
        return False


as_it_is, unblocked = ray.get(ended.remote(False)), ray.get(ended.remote(True))
print(f"a program ends by SIGINT: {as_it_is}; with SIGINT unblocked in the task: {unblocked}")
ray.shutdown()
sys.exit(0 if (as_it_is, unblocked) == (False, True) else "ray behaves differently now")
PYTHON
