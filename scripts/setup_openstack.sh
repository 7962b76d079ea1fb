#!/bin/sh
# Prepares .venv-openstack: the real Keystone, Neutron and networking-bgpvpn that packaging/openstack/uv.lock
# names, for tests and `diminet lab up --south neutron`, and the databases that they start from. Called by
# setup.sh, which has made .venv with uv. Quick when nothing is to do.
set -eu
cd "$(dirname "$0")/.."

HOME_OF_LOCK=packaging/openstack
ENVIRONMENT=.venv-openstack
STAMP=$ENVIRONMENT/.diminet-setup

say() { printf 'setup: %s\n' "$*"; }

wanted=$(cat $HOME_OF_LOCK/uv.lock $HOME_OF_LOCK/pyproject.toml scripts/setup_openstack.sh | sha256sum)
if [ "$(cat "$STAMP" 2>/dev/null)" != "$wanted" ] || ! $ENVIRONMENT/bin/python -c '' 2>/dev/null; then
    say "installing Keystone and Neutron in $ENVIRONMENT"
    UV_PROJECT_ENVIRONMENT=$PWD/$ENVIRONMENT .venv/bin/uv sync --quiet --frozen --no-python-downloads \
        --project $HOME_OF_LOCK --python .venv/bin/python
    printf '%s\n' "$wanted" >"$STAMP"
fi
.venv/bin/python -m diminet.lab.openstack.templates
