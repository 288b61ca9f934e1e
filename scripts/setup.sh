# Sourced by ./demo and ./test: `set_up LOCK` makes $root/.venv match requirements/LOCK.txt.
#
# Started again, it compares one line and returns. Interrupted, it starts over. Started twice at
# once, the second waits: the kernel drops the lock of a dead process, so there is none to go stale.
# shellcheck shell=sh

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# A setting or an activated environment of the caller must not reach the one made here.
unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

oldest=11
newest=14
# shellcheck disable=SC2154 # whoever sources this says where the root is
venv=$root/.venv

# Does this command start a CPython that we support?
is_supported() {
    "$1" -I -c "import sys
sys.exit(sys.implementation.name != 'cpython' or not (3, $oldest) <= sys.version_info[:2] <= (3, $newest))
" >/dev/null 2>&1
}

can_make_venv() { "$1" -I -c 'import ensurepip, venv' >/dev/null 2>&1; }

minor_of() { "$1" -I -c 'import sys; print("3.%d" % sys.version_info[1])'; }

candidates() {
    minor=$newest
    while [ "$minor" -ge "$oldest" ]; do
        echo "python3.$minor"
        minor=$((minor - 1))
    done
    echo python3
    echo python
    for found in "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}"/versions/*/bin/python3; do
        echo "$found"
    done
}

# Prints the Python to use, or says what is missing and which command installs it.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.$oldest to 3.$newest"
        can_make_venv "$PYTHON" || die "$PYTHON has no venv module: $(install_line "$(minor_of "$PYTHON")")"
        echo "$PYTHON"
        return
    fi
    without_venv=
    while IFS= read -r candidate; do
        is_supported "$candidate" || continue
        if can_make_venv "$candidate"; then
            echo "$candidate"
            return
        fi
        : "${without_venv:=$candidate}"
    done <<LIST
$(candidates)
LIST
    [ -z "$without_venv" ] ||
        die "$without_venv has no venv module: $(install_line "$(minor_of "$without_venv")")"
    die "no Python 3.$oldest to 3.$newest found: $(install_line "$(packaged)") (or name one: PYTHON=/path/to/python3 $0)"
}

# The newest supported version that apt offers here.
packaged() {
    minor=$newest
    while [ "$minor" -ge "$oldest" ]; do
        if apt-cache show "python3.$minor-venv" >/dev/null 2>&1; then break; fi
        minor=$((minor - 1))
    done
    [ "$minor" -ge "$oldest" ] && echo "3.$minor" || echo 3.12
}

install_line() {
    if [ "$(id -u)" -eq 0 ]; then echo "apt install python$1-venv"; else echo "sudo apt install python$1-venv"; fi
}

# What .venv has to match: the lock, the project's declaration, where it lies, its Python.
wanted_stamp() {
    printf '%s %s %s' "$(cksum <"$root/requirements/$1.txt")" "$(cksum <"$root/pyproject.toml")" "$root"
}

is_ready() {
    [ ! -e "$venv/.incomplete" ] && [ -f "$venv/.stamp-$1" ] &&
        [ "$(cat "$venv/.stamp-$1")" = "$(wanted_stamp "$1")" ] &&
        is_usable
}

# Does .venv hold a working Python, and the one asked for where one is?
is_usable() {
    is_supported "$venv/bin/python" && [ -x "$venv/bin/pip" ] &&
        { [ -z "${PYTHON:-}" ] || [ "$(minor_of "$PYTHON")" = "$(minor_of "$venv/bin/python")" ]; }
}

take_lock() {
    exec 9>>"$root/.venv.lock" || die "cannot write in $root"
    "$1" -I -c "import fcntl, sys, time
for second in range(1800):
    try:
        fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        if second == 0:
            print('another set-up is running here: waiting for it', file=sys.stderr)
        time.sleep(1)
else:
    sys.exit('error: another set-up has held .venv.lock for half an hour')
" 9>&9
}

make_venv() {
    say "== making .venv with $("$1" -V 2>&1)"
    rm -rf "$venv"
    mkdir "$venv"
    : >"$venv/.incomplete"
    "$1" -I -m venv "$venv" || die "$1 could not make $venv"
}

pip_install() {
    "$venv/bin/python" -I -m pip install --no-input --disable-pip-version-check --retries 8 "$@" >&2
}

install_locked() {
    : >"$venv/.incomplete"
    rm -f "$venv"/.stamp-*
    say "== installing requirements/$1.txt"
    pip_install --require-hashes -r "$root/requirements/$1.txt" ||
        die "requirements/$1.txt could not be installed (see above); the next start tries again"
    say "== installing flopwise"
    pip_install --quiet --no-build-isolation --no-deps --editable "$root" ||
        die "flopwise could not be installed (see above); the next start tries again"
    for covered in all "$1"; do wanted_stamp "$covered" >"$venv/.stamp-$covered"; done # dev holds all
    rm "$venv/.incomplete"
}

set_up() {
    ! is_ready "$1" || return 0
    python=$(find_python) || exit 1
    take_lock "$python" || exit 1
    if ! is_ready "$1"; then
        if [ -e "$venv/.incomplete" ] || ! is_usable; then make_venv "$python"; fi
        install_locked "$1"
    fi
    exec 9>&- # a program started after this must not hold the lock
}
