#!/bin/sh
# Prepares this checkout: Debian packages, and .venv with what uv.lock names; with --openstack also
# .venv-openstack (setup_openstack.sh). Quick when nothing is to do.
# Needs root, or sudo for the packages. What it installs is not left enabled or started as a service; what
# was installed before is not touched.
set -eu
cd "$(dirname "$0")/.."
exec 9<scripts/setup.sh
flock 9 # one set-up at a time

UV_VERSION=0.13.9
PACKAGES="frr nftables iproute2 iputils-ping procps util-linux"
[ "${1:-}" != --openstack ] || PACKAGES="$PACKAGES mariadb-server-core mariadb-client" # programs only, no service
STAMP=.venv/.diminet-setup
LOCK_WAIT=600 # seconds to wait for another apt or dpkg
POLICY=/usr/sbin/policy-rc.d

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; return; fi
    command -v sudo >/dev/null || die "Debian packages are missing (${missing}): run this as root, or install sudo"
    sudo "$@"
}

# A Python that can make virtual environments: the first on PATH that is new enough.
find_python() {
    for candidate in python3 /usr/bin/python3 python3.11 python3.12 python3.13; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

is_installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# apt waits for dpkg's lock by itself, but not for that of the package lists.
update_lists() {
    waited=0
    until said=$(as_root env LC_ALL=C apt-get -qq update 2>&1); do
        case "$said" in *"Could not get lock"* | *"Unable to lock"*) ;; *) die "apt-get update failed: $said" ;; esac
        [ "$waited" -lt "$LOCK_WAIT" ] || die "another apt-get has held its lock for $LOCK_WAIT s: try again later"
        sleep 5
        waited=$((waited + 5))
    done
}

enabled_services() { find /etc/systemd/system -name '*.service' -type l 2>/dev/null | sort; }

# Daemons that come with the packages are neither started now nor at the next boot: each DIMINET instance
# runs its own FRR.
install_packages() {
    say "installing Debian packages: $missing"
    before=$(mktemp)
    log=$(mktemp)
    enabled_services >"$before"
    ours=
    if [ ! -e "$POLICY" ]; then
        ours=yes
        trap 'as_root rm -f "$POLICY"' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
        as_root chmod 755 "$POLICY"
    fi
    update_lists
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=$LOCK_WAIT -o Dpkg::Options::=--force-confold install $missing </dev/null >"$log" 2>&1 ||
        die "apt-get could not install $missing: $(tail -n 20 "$log")"
    enabled_services | comm -13 "$before" - | while read -r link; do
        as_root systemctl disable --quiet "$(basename "$link")" 2>/dev/null || as_root rm -f "$link"
    done
    rm -f "$before" "$log"
    if [ -n "$ours" ]; then
        as_root rm -f "$POLICY"
        trap - EXIT INT TERM
    fi
}

python=$(find_python)
missing=
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    for package in $PACKAGES; do is_installed "$package" || missing="$missing $package"; done
    [ -n "$python" ] || missing="$missing python3 python3-venv"
    missing=${missing# }
    [ -z "$missing" ] || install_packages
    [ -n "$python" ] || python=$(find_python)
else
    for tool in /usr/lib/frr/bgpd nft ip ping; do
        command -v "$tool" >/dev/null || die "this is not Debian: install $tool yourself (FRR 8.4 is the tested one)"
    done
fi
[ -n "$python" ] || die "no Python 3.11 or later with venv was found: install one"

prepare_environment() {
    wanted=$(cat uv.lock pyproject.toml scripts/setup.sh | sha256sum)
    if [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null; then
        [ "$(cat "$STAMP" 2>/dev/null)" != "$wanted" ] || return 0
    else
        say "making .venv with $python"
        "$python" -m venv --clear .venv
    fi
    if [ "$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$UV_VERSION" ]; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
    say "installing what uv.lock names"
    UV_PROJECT_ENVIRONMENT=.venv .venv/bin/uv sync --quiet --frozen --inexact --extra openstack \
        --compile-bytecode --no-python-downloads --python .venv/bin/python
    printf '%s\n' "$wanted" >"$STAMP"
    say "done"
}

prepare_environment
# Also where PYTHONDONTWRITEBYTECODE is set: every start of an instance would compile it all anew.
.venv/bin/python -m compileall -q src
[ "${1:-}" != --openstack ] || sh scripts/setup_openstack.sh
