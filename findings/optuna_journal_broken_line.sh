#!/usr/bin/env bash
# One would guess that a journal survives a process that is killed while it writes: each line is a record by itself.
# Optuna's JournalFileBackend leaves out a last line without an end when it reads, so that the study opens with all that
# came before. But the next record is appended to that very line: the two are no JSON together, and from then on every
# call fails with a JSONDecodeError, and so does every new process that opens the study.
# It matters to users of kanpde who search settings with a journal of their own: the end of a job in the middle of a
# write, or a full disk, costs all trials, but not before the next one is written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q optuna==5.0.0
"$folder/venv/bin/python" - "$folder/journal.log" <<'PYTHON'
import sys
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

print("optuna", optuna.__version__)
optuna.logging.set_verbosity(optuna.logging.ERROR)
path = Path(sys.argv[1])


def study():
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(storage=storage, study_name="s", load_if_exists=True)


def outcome(call):
    try:
        return f"{len(call())} trials"
    except ValueError as error:
        return type(error).__name__


search = lambda: study().optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1) or study().trials
for _ in range(3):
    search()
path.write_bytes(path.read_bytes()[:-20])  # what is there of the last record when its process is killed
found = [outcome(lambda: study().trials), outcome(search), outcome(lambda: study().trials)]
print("opened: {}; one more trial: {}; opened again: {}".format(*found))
sys.exit(0 if found == ["3 trials", "JSONDecodeError", "JSONDecodeError"] else "optuna behaves differently now")
PYTHON
