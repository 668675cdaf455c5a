#!/bin/sh
# Makes .venv: every package of requirements.lock, checked by its hash, and this project itself, editable.
#
# uv does it in seconds; where there is none, pip fetches the one of the lock; where uv does not get through, pip does it
# all in a minute. Quiet, unless something fails. Nothing is fetched for packages that are there already.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV
PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_DISABLE_PIP_VERSION_CHECK
python=.venv/bin/python
log=.venv/setup.log
begin=$(date +%s)

if [ -z "${HOME:-}" ]; then # uv and pip want a place for their caches
    HOME=$PWD/.venv/home XDG_CACHE_HOME=$PWD/.venv/home
    export HOME XDG_CACHE_HOME
fi

fail() {
    tail -n 20 $log >&2 2>/dev/null || true
    echo "$1" >&2
    exit 1
}

# The first command that is a Python of 3.11 to 3.13 (these are tested), else of any later version.
find_python() {
    for newest in 13 99; do
        for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
            if "$name" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null; then
                "$name" -c "import sys; print(sys.executable)"
                return
            fi
        done
    done
    echo "no Python of 3.11 or later was found as python3, python3.11, python3.12 or python3.13: install one and run again" >&2
    return 1
}

make_environment() {
    rm -rf .venv
    if command -v uv >/dev/null; then
        mkdir -p .venv
        uv venv --quiet --no-python-downloads --python "$1" --allow-existing .venv >$log 2>&1 && return
        rm -rf .venv
    fi
    "$1" -m venv .venv >/dev/null 2>&1 && return
    rm -rf .venv
    fail "$1 cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv), or uv"
}

# The uv of this machine, else the one of the lock; fails where it has no wheel for this machine.
find_uv() {
    command -v uv && return
    awk '/^[^ #]/ { wanted = /^uv==/ } wanted' requirements.lock >.venv/uv.lock
    "$python" -m pip install --no-deps --only-binary :all: --require-hashes -r .venv/uv.lock >>$log 2>&1 || return 1
    .venv/bin/uv --version >>$log 2>&1 && echo .venv/bin/uv
}

install_with_uv() {
    "$uv" pip install --python "$python" --require-hashes -r requirements.lock &&
        "$uv" pip install --python "$python" --no-deps --no-build-isolation -e .
}

install_with_pip() {
    "$python" -m pip --version || "$python" -m ensurepip || return 1
    "$python" -m pip install --no-deps --require-hashes -r requirements.lock &&
        "$python" -m pip install --no-deps --no-build-isolation -e .
}

if [ "$(cat .venv/made-in 2>/dev/null)" != "$PWD" ] || ! "$python" -c "" 2>/dev/null; then
    found=$(find_python)
    echo "making .venv with $("$found" --version) (once)"
    make_environment "$found"
    printf %s "$PWD" >.venv/made-in
fi

echo "installing $(grep -c '^[^ #].*==' requirements.lock) packages, each checked by its hash"
: >$log
if ! { uv=$(find_uv) && install_with_uv >>$log 2>&1; }; then
    UV_SYSTEM_CERTS=true # a company's own authority is known to the system, not to uv
    export UV_SYSTEM_CERTS
    if [ -z "$uv" ] || ! install_with_uv >>$log 2>&1; then
        echo "uv did not get through; pip takes about a minute"
        install_with_pip >>$log 2>&1 || fail "could not install the packages: the lines above say why, $log has all of them"
    fi
fi
printf %s "$PWD" >.venv/ready
echo "ready in $(($(date +%s) - begin)) s"
