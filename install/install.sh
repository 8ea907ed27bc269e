#!/bin/sh
# Installs what is missing, and only that: Debian packages from apt-packages, then .venv from the pinned requirements.
#
#   install/install.sh [--dev]          --dev adds what the tests need
#   install/install.sh --packages FILE  the Debian packages that FILE lists, and nothing else
#
# Theory of operation. Debian starts and enables what it installs; on a machine that is somebody's, a second charon or a
# BIRD with an empty configuration is not ours to start. So for as long as apt runs, /usr/sbin/policy-rc.d refuses every
# start, and the links that enable a unit or an init script are taken away again, if they belong to a package that was
# not there before *and* were not there before. A policy-rc.d of the machine's own is moved aside and back, so it stays
# byte for byte. Everything is undone in an EXIT trap; what even a SIGKILL leaves behind is found in $STATE by the next
# run and undone first. A lock keeps two runs apart.
#
# Python packages come from wherever the machine's pip is set up to look; no index address stands in this project. What
# of pip's settings would move packages out of .venv is switched off. Nothing happens when requirements, interpreter and
# place are as they were: that check is the whole of a second run.
set -eu

TREE=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
STATE=/run/anycast-install
POLICY=/usr/sbin/policy-rc.d
LOG=$TREE/out/install.log
START=$(date +%s)
PACKAGES=
case ${1-} in
    "" | --dev) DEV=${1-} ;;
    --packages)
        DEV=
        PACKAGES=$(readlink -f -- "${2:?--packages needs a file}")
        [ -r "$PACKAGES" ] || { echo "$2 cannot be read" >&2; exit 1; } ;;
    *) sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] || [ "$1" = -h ]; exit ;;
esac

say() { printf '[%4d s] %s\n' "$(($(date +%s) - START))" "$*"; }
fail() { say "$*" >&2; exit 1; }

# Reads a command's output, keeps it in the log, shows the lines that mean progress.
progress() {
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$LOG"
        case $line in
            "Get:"* | "Unpacking "* | "Setting up "* | "Collecting "* | "Installing collected "* | "Building wheel"* | "WARNING: Retrying"* | "E: "* | "ERROR"*)
                say "  $(printf '%.100s' "$line")" ;;
        esac
    done
}

# Runs a command through `progress` and returns the command's own status, which a pipe of POSIX sh forgets.
shown() {
    rm -f "$STATE/failed"
    { "$@" 2>&1 || echo "$?" >"$STATE/failed"; } | progress
    [ ! -e "$STATE/failed" ]
}

wanted_packages() { sed 's/#.*//' "${PACKAGES:-$TREE/install/apt-packages}" ${DEV:+"$TREE/install/apt-packages-dev"}; }

apt() { apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "$@"; }
pip() { .venv/bin/python -m pip "$@"; }

missing_packages() {
    # dpkg-query complains about names it never heard of; those are simply missing.
    # shellcheck disable=SC2046 # names are words
    have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $(wanted_packages) 2>/dev/null | sed -n 's/ installed$//p')
    for package in $(wanted_packages); do
        printf '%s\n' "$have" | grep -qxF "$package" || printf '%s\n' "$package"
    done
}

installed_packages() { dpkg-query -W -f '${db:Status-Status} ${binary:Package}\n' | sed -n 's/^installed //p' | sort; }
unit_links() { find /etc/systemd/system -type l 2>/dev/null | sort; }
init_links() { find /etc/rc?.d -name 'S*' -type l 2>/dev/null | sort; }

# Takes away what enables a service of a package that is new since the state was noted down.
disable_new_services() {
    installed_packages | comm -13 "$STATE/packages" - >"$STATE/new"
    [ -s "$STATE/new" ] || return 0
    # shellcheck disable=SC2046 # package names are words
    dpkg-query -L $(cat "$STATE/new") >"$STATE/files"
    unit_links | comm -13 "$STATE/unit-links" - | while IFS= read -r link; do
        unit=$(basename "$(readlink "$link")")
        if grep -q "/systemd/system/$unit\$" "$STATE/files"; then
            rm -f "$link"
            say "  $unit: not enabled"
        fi
    done
    init_links | comm -13 "$STATE/init-links" - | while IFS= read -r link; do
        script=$(basename "$(readlink "$link")")
        if grep -qxF "/etc/init.d/$script" "$STATE/files"; then
            update-rc.d "$script" disable >>"$LOG" 2>&1
        fi
    done
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

# Undoes everything that apt's run needed. Safe to call at any time, also for a run that was killed.
restore() {
    if [ -e "$STATE/init-links" ]; then disable_new_services; fi
    if [ -e "$POLICY" ] && grep -q "$STATE" "$POLICY"; then rm -f "$POLICY"; fi
    if [ -e "$POLICY.before-anycast" ]; then mv -f "$POLICY.before-anycast" "$POLICY"; fi
    rm -f "$STATE/init-links"
}

install_packages() {
    missing=$(missing_packages)
    if [ -z "$missing" ]; then
        say "Debian packages: all there"
        return 0
    fi
    # shellcheck disable=SC2086 # package names are words
    set -- $missing
    say "Debian packages: $# missing: $*"
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
    # Downloading changes nothing, so it comes before the policy; package lists that are missing or too old show here.
    if ! { apt-cache show "$@" >/dev/null 2>&1 && shown apt --download-only install "$@"; }; then
        say "package lists are missing or old: apt-get update"
        shown apt update || fail "apt-get update failed; see $LOG"
        shown apt --download-only install "$@" || fail "apt-get could not download the packages; see $LOG"
    fi
    installed_packages >"$STATE/packages"
    unit_links >"$STATE/unit-links"
    init_links >"$STATE/init-links"
    if [ -e "$POLICY" ]; then mv "$POLICY" "$POLICY.before-anycast"; fi
    printf '#!/bin/sh\n# Of %s while it installs; may be removed when it does not run. State: %s\nexit 101\n' \
        "$TREE/install/install.sh" "$STATE" >"$POLICY"
    chmod 755 "$POLICY"
    # An installation that somebody interrupted, perhaps ours, is completed first: apt refuses to work before.
    if [ -n "$(ls /var/lib/dpkg/updates)" ] || [ -n "$(dpkg --audit)" ]; then shown dpkg --configure -a; fi
    shown apt install "$@" || fail "apt-get could not install the packages; see $LOG"
    restore
    missing=$(missing_packages)
    [ -z "$missing" ] || fail "still missing after apt-get: $missing"
}

# Prints the first Python that is new enough. The system's own comes first: one under a home directory cannot be read
# by the unprivileged user that ExaBGP runs as.
find_python() {
    for candidate in /usr/bin/python3 /usr/bin/python3.1[1-9] /usr/local/bin/python3 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

install_python() { # install_python REQUIREMENTS...
    python=$(find_python) || fail "no Python 3.11 or newer with venv was found (Debian 12 and 13 have one in /usr/bin)"
    cd "$TREE"
    base="$TREE $("$python" -c 'import sys; print(sys.executable, *sys.version_info[:2])')"
    if [ "$(cat .venv/anycast-base 2>/dev/null || true)" != "$base" ]; then
        say ".venv: new, from $python"
        rm -rf .venv
        "$python" -m venv .venv
        printf '%s\n' "$base" >.venv/anycast-base
    fi
    for name in "$@"; do
        hash=$(cat pyproject.toml requirements.txt install/requirements-build.txt "$name" install/install.sh | sha256sum)
        stamp=.venv/anycast-$(basename "$name")
        if [ "$(cat "$stamp" 2>/dev/null || true)" = "$hash" ]; then
            say ".venv: $name as pinned"
            continue
        fi
        say ".venv: installing $name"
        rm -f "$stamp"
        # Where to download from is the machine's business; where to put it is ours.
        unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_EDITABLE PIP_REQUIREMENT PIP_CONSTRAINT PIP_NO_DEPS PIP_DRY_RUN PYTHONPATH PYTHONHOME
        export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
        shown pip install -r install/requirements-build.txt -r "$name" || fail "pip could not install $name; see $LOG"
        shown pip install --no-build-isolation --no-deps -e . || fail "pip could not install the project; see $LOG"
        # The editable install names this place absolutely. The tree is also seen elsewhere (bound to /opt/anycast, by
        # a user who cannot read this place), so the same packages are found relative to .venv too, and first.
        for site in .venv/lib/python3.*/site-packages; do
            printf '%s\n' ../../../.. ../../../../site-agent ../../../../exabgp ../../../../labs >"$site/_anycast_tree.pth"
        done
        printf '%s\n' "$hash" >"$stamp"
    done
}

[ "$(id -u)" = 0 ] || fail "this must be run as root: it installs Debian packages and makes network namespaces"
command -v apt-get >/dev/null || fail "apt-get was not found: this installs on Debian 12 and 13 only"
mkdir -p "$TREE/out"
exec 9>/run/anycast-install.lock
flock -n 9 || { say "waiting for another installation to end"; flock 9; }
restore
[ -d "$STATE" ] || mkdir -m 700 "$STATE"
trap 'restore; rm -rf "$STATE"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
install_packages
[ -n "$PACKAGES" ] || install_python requirements.txt ${DEV:+requirements-dev.txt}
say "installed"
