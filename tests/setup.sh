#!/bin/sh
# Installs what the integration tests need and cargo does not bring: mbpoll, socat, systemd's tools (to judge the unit),
# and pymodbus with pyserial in a virtual environment below target/test-tools. Safe to run again; as root, or with sudo at hand.
set -eu
cd "$(dirname "$0")/.."

pymodbus=3.16.1
venv=target/test-tools/venv

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=
command -v mbpoll >/dev/null || missing="$missing mbpoll"
command -v socat >/dev/null || missing="$missing socat"
command -v systemd-analyze >/dev/null || missing="$missing systemd"
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    as_root apt-get update -q
    # shellcheck disable=SC2086 # several names
    as_root apt-get install -qy --no-install-recommends $missing
fi

if ! "$venv/bin/python" -c "import pymodbus, serial; assert pymodbus.__version__ == '$pymodbus'" 2>/dev/null; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "pymodbus[serial]==$pymodbus"
fi
