#!/usr/bin/env bash
# One would guess that points on the boundary of a rectangle are uniform, and the same again after torch.manual_seed.
# PINA's partial() is a union of sides, each of which gets as many points whatever its length: of a channel 100 x 1 the
# two short sides have half of all points on 1 % of the boundary. The order of the sides comes from Python's own
# generator, and with it which numbers of torch's a side gets: torch.manual_seed alone repeats none of the points.
# It matters to users of kanpde who compare the two: on the same points, neither package draws them alike by itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pina-mathlab==0.3.2.post2610 torch==2.13.0
HOME="$folder" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import random
import sys
from importlib.metadata import version

import torch
from pina.domain import CartesianDomain

print("pina-mathlab", version("pina-mathlab"))
channel = CartesianDomain({"x": [0, 100], "y": [0, 1]})


def drawn(seed_of_python=None):
    """Points after torch.manual_seed(0)."""
    torch.manual_seed(0)
    if seed_of_python is not None:
        random.seed(seed_of_python)
    return channel.partial().sample(1000).as_subclass(torch.Tensor)


x = drawn()[:, 0]
short = ((x == 0) | (x == 100)).double().mean().item()
print(f"points on the short sides {short:.3f}, their share of the length {2 / 202:.3f}")
orders = len({tuple(drawn(seed)[:, 0].tolist()) for seed in range(20)})
again = torch.equal(drawn(0), drawn(0))
print(f"after torch.manual_seed(0) and 20 seeds of Python's random: {orders} sets of points; after both: the same {again}")
sys.exit(0 if short == 0.5 and orders > 1 and again else "pina behaves differently now")
PYTHON
