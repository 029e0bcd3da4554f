#!/bin/sh
# Installs what the integration tests need and cargo does not bring: mbpoll, socat, libfaketime, openssl (PKCS#12 stores),
# mosquitto, systemd's tools (to judge the unit and to boot it), loop devices and ext4 (to fill them and cut their power), strace (to let a sync fail), and
# pymodbus with pyserial in a virtual environment below target/test-tools. Safe to run again; as root, or with sudo at hand.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

pymodbus=3.16.1
venv=target/test-tools/venv

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=
command -v mbpoll >/dev/null || missing="$missing mbpoll"
command -v socat >/dev/null || missing="$missing socat"
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
command -v openssl >/dev/null || missing="$missing openssl"
command -v mosquitto >/dev/null || missing="$missing mosquitto"
command -v mkfs.ext4 >/dev/null || missing="$missing e2fsprogs"
command -v strace >/dev/null || missing="$missing strace"
command -v losetup >/dev/null || missing="$missing mount"
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

# A small Debian with a real systemd, for the tests that boot one. Only root can make and boot it.
box=target/test-tools/box
if [ "$(id -u)" = 0 ] && [ ! -e "$box/complete" ]; then
    command -v debootstrap >/dev/null && command -v systemd-nspawn >/dev/null || {
        apt-get update -q
        apt-get install -qy --no-install-recommends debootstrap systemd-container
    }
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk '$2 !~ /-/ { print $1; exit }')
    rm -rf "$box"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$box" "$mirror"
    touch "$box/complete"
fi
