#!/usr/bin/env bash
# One would guess that torch.compile traces a property whatever keeps its value. Under Python 3.11 the first read of a
# functools.cached_property holds a lock that the compiler cannot enter ("Unsupported context manager ... RLock"), so
# that a function with fullgraph=True fails, and one without is cut into two graphs. Once the property has been read
# outside, it is an attribute like any other, and the same function compiles: whether a model compiles depends on what
# was called before it. Python 3.12 has taken the lock out.
# It matters to whoever keeps what a model has worked out: read it once before compiling, or compute it at the start.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cat > "$folder/first.py" <<'PYTHON'
import sys
from functools import cached_property

import torch


class Rates:
    @cached_property
    def factor(self):
        return 4.0


def compiled(rates):
    return torch.compile(lambda x: x * rates.factor, fullgraph=True, backend="eager")


rates = Rates()
try:
    print(compiled(rates)(torch.ones(2)))
    locked = False
except torch._dynamo.exc.Unsupported as error:
    print(str(error).splitlines()[0])
    locked = "context manager" in str(error)
assert rates.factor == 4.0
torch.compiler.reset()
print(compiled(rates)(torch.ones(2)))
sys.exit(locked != (sys.version_info < (3, 12)))
PYTHON
"$folder/venv/bin/python" "$folder/first.py"
# Unsupported context manager
# tensor([4., 4.])
