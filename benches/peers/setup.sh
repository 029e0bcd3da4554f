#!/bin/sh
# Installs the agents that ours is measured beside, in the versions that docs/footprint.md names: ThingsBoard gateway and
# Node-RED below FOLDER (default: target/peers), collectd and the broker from Debian. Safe to run again; as root, or with
# sudo at hand.
# usage: benches/peers/setup.sh [FOLDER]
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin
folder=${1:-target/peers}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=
command -v mosquitto >/dev/null || missing="$missing mosquitto"
command -v collectd >/dev/null || missing="$missing collectd-core"
ls /usr/lib/*/libmodbus.so.5 >/dev/null 2>&1 || missing="$missing libmodbus5"
ls /usr/lib/*/libmosquitto.so.1 >/dev/null 2>&1 || missing="$missing libmosquitto1"
command -v npm >/dev/null || missing="$missing nodejs npm"
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    as_root apt-get update -q
    # shellcheck disable=SC2086 # several names
    as_root apt-get install -qy --no-install-recommends $missing
fi

mkdir -p "$folder/nodered"

# For run.py itself.
[ -e "$folder/venv/complete" ] || {
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet paho-mqtt==2.2.0 cbor2==6.2.1
    touch "$folder/venv/complete"
}

# It installs what a connector needs when it first meets it: brought along, so that no run begins with that.
[ -e "$folder/tbgw/complete" ] || {
    python3 -m venv "$folder/tbgw"
    "$folder/tbgw/bin/pip" install --quiet \
        thingsboard-gateway==3.8.5 pymodbus==3.9.2 pyserial==3.5 pyserial-asyncio==0.6
    touch "$folder/tbgw/complete"
}

# The newest node-red-contrib-modbus wants a package from outside npm's registry; this one does not.
[ -e "$folder/nodered/complete" ] || {
    (
        cd "$folder/nodered"
        npm init --yes >/dev/null
        npm install --ignore-scripts --no-audit --no-fund node-red@4.1.15 node-red-contrib-modbus@5.23.3
    )
    touch "$folder/nodered/complete"
}
