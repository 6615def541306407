#!/usr/bin/env bash
# One would guess that destroy_process_group() ends the threads of the group. Where torch.distributed.nn.functional is
# imported first while a group is there, which the first step of any optimiser does by way of torch._dynamo, ten of its
# functions take that group as the default of an argument (group=group.WORLD), and keep it: its threads live on. An
# exit of Python that meets such a thread as it lets go of its last message ends by "terminate called without an active
# exception" (SIGABRT), in some runs of a hundred: torchrun then says that the run, which is complete, has failed.
# It matters to whoever trains on several processes: the end is clean where the module is imported before the group is
# made.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat > "$folder/threads.py" <<'PYTHON'
import importlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def threads():
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


before = sys.argv[1] == "before"
if before:
    importlib.import_module("torch.distributed.nn.functional")
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = torch.ones(3)
torch.optim.SGD([weight]).step()
dist.all_reduce(torch.ones(3))
dist.destroy_process_group()
left = threads()
print(f"torch {torch.__version__}, imported {'before' if before else 'after'} the group is made: {left} of its threads left")
sys.stdout.flush()
os._exit(0 if (left == 0) == before else 1)  # not by Python's own exit
PYTHON
"$folder/venv/bin/python" "$folder/threads.py" after "$folder/one"    # 3 of its threads left
"$folder/venv/bin/python" "$folder/threads.py" before "$folder/two"   # 0 of its threads left
