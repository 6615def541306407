#!/usr/bin/env bash
# One would guess that ray.init() on its own leaves nothing behind that changes what a later `ray start` does.
# With RAY_AUTH_MODE unset, ray.init() that starts a local cluster writes a token to ~/.ray/auth_token. From then on
# `ray start --head` of that user finds the token and asks for one, but ray.init(address=...) and `ray start --address`
# on the same machine, in the same environment, send none: they fail after a minute with InvalidAuthToken.
# It matters to users of `kanpde sweep --engine ray`, who try it without a cluster first: with RAY_AUTH_MODE=token (or
# disabled) on all machines and for the command it is the same for all.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${head:-}" 2>/dev/null || true; sleep 3; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ray==2.60.0
export HOME="$folder" RAY_USAGE_STATS_ENABLED=0 PATH="$folder/venv/bin:$PATH"
unset RAY_AUTH_MODE RAY_ADDRESS
port=6399
start() {
    ray start --head --port $port --num-cpus 1 --include-dashboard false --block >"$folder/head.log" 2>&1 &
    head=$!
    sleep 20
}
connects() {
    timeout 120 python -c "import ray; ray.init(address='127.0.0.1:$port', logging_level='error')" >"$folder/log" 2>&1 \
        && echo yes || { grep -q InvalidAuthToken "$folder/log" && echo InvalidAuthToken || echo no; }
}
python -c "import ray; print('ray', ray.__version__)"
start; before=$(connects); kill $head; wait $head || true; sleep 5; port=6400
python -c "import ray; ray.init(address='local', include_dashboard=False, logging_level='error'); ray.shutdown()" >/dev/null 2>&1
start; after=$(connects)
echo "connects to ray start --head: $before; after a ray.init() of its own: $after"
[ "$before" = yes ] && [ "$after" = InvalidAuthToken ] || { echo "ray behaves differently now" >&2; exit 1; }
