"""Benchmarks, by rooms (`ROOMS`). CSVs and tables lie in `results`.

A benchmark is run by its name alone, `python -m benchmarks.operators`, whichever room it is in; code names the room,
`benchmarks.speed.operators`, so that no module is loaded twice.
"""

from pathlib import Path

ROOMS = ("common", "paper", "speed", "images", "accuracy", "formulas", "reliability")
__path__ += [str(Path(__file__).with_name(room)) for room in ROOMS]
