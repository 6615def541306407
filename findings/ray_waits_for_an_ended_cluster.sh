#!/usr/bin/env bash
# One would guess that ray.init() without an address starts Ray here when no cluster is there, as its documentation says.
# It asks a file for the last cluster of this machine, /tmp/ray/ray_current_cluster, which only `ray stop` takes away: of
# a cluster that has ended by itself (a restart of the machine, a kill) the file stays, and ray.init() tries that address
# for minutes before it raises, instead of starting anything. Here the machine that ran it is gone: its port is closed.
# It matters to users of `kanpde sweep --engine ray`: a sweep stands still before its first run and says nothing. What
# helps is address="local" where nothing answers there, or to remove the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ray==2.60.0
cat > "$folder/begin.py" <<'PYTHON'
import sys
import time

import ray

start = time.monotonic()
ray.init(*sys.argv[1:], include_dashboard=False, log_to_driver=False, logging_level="error")
print(f"ray {ray.__version__} has begun")
ray.shutdown()
PYTHON
export RAY_TMPDIR=$folder HOME=$folder RAY_USAGE_STATS_ENABLED=0
port=$("$folder/venv/bin/python" -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
mkdir -p "$folder/ray"
echo "127.0.0.1:$port" > "$folder/ray/ray_current_cluster"  # as `ray start --head` leaves it
"$folder/venv/bin/python" "$folder/begin.py" local
echo "127.0.0.1:$port" > "$folder/ray/ray_current_cluster"
if timeout 60 "$folder/venv/bin/python" "$folder/begin.py" 2> /dev/null; then
    echo "ray.init() no longer waits for it" && exit 1
else
    code=$?
fi
echo "with the address of the ended cluster in the file: nothing begun after 60 s (exit code $code of timeout)"
[ "$code" = 124 ]
