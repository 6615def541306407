#!/usr/bin/env bash
# One would guess that MLflow with a store on this machine, a data base or a folder, asks nothing of the network.
# The first run that is created there makes it look up a host of MLflow's own, for what reports of the calls it is to
# send, unless MLFLOW_DISABLE_TELEMETRY or DO_NOT_TRACK is set before the import. In tests and in CI it is off by itself:
# nobody sees it there.
# It matters to users of kanpde who log to MLflow on machines that must not call anyone, or for whom a blocked network is
# an alarm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mlflow-skinny==3.17.2 sqlalchemy alembic
cat > "$folder/local.py" <<'PYTHON'
import socket
import sys
import time

hosts = []


def noted(host, *others, **options):
    hosts.append(host)
    raise OSError("no network here")  # so that nothing is sent


socket.getaddrinfo = noted
import mlflow

client = mlflow.MlflowClient("sqlite:///" + sys.argv[1])
client.create_run(client.create_experiment("mine"))
time.sleep(3)  # it is done by a thread
print(mlflow.__version__, len(set(hosts)))
PYTHON
clean=(env -i HOME="$folder" PATH="$PATH")
asked=$("${clean[@]}" "$folder/venv/bin/python" "$folder/local.py" "$folder/asked.db" 2> "$folder/log")
silent=$("${clean[@]}" MLFLOW_DISABLE_TELEMETRY=true "$folder/venv/bin/python" "$folder/local.py" "$folder/silent.db" 2> "$folder/log")
echo "mlflow, hosts looked up for a run in a file: $asked; with MLFLOW_DISABLE_TELEMETRY: $silent"
[[ "$asked" == *" 1" && "$silent" == *" 0" ]] || { echo "mlflow behaves differently now"; exit 1; }
