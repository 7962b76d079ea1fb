#!/bin/sh
# Prepares .venv-tempest: what packaging/tempest/uv.lock names, for `make tempest` only. Called after
# setup.sh, which has made .venv with uv. Quick when nothing is to do.
set -eu
cd "$(dirname "$0")/.."

HOME_OF_LOCK=packaging/tempest
ENVIRONMENT=.venv-tempest
STAMP=$ENVIRONMENT/.diminet-setup

wanted=$(cat $HOME_OF_LOCK/uv.lock $HOME_OF_LOCK/pyproject.toml scripts/setup_tempest.sh | sha256sum)
if [ "$(cat "$STAMP" 2>/dev/null)" != "$wanted" ] || ! $ENVIRONMENT/bin/python -c '' 2>/dev/null; then
    printf 'setup: installing tempest in %s\n' "$ENVIRONMENT"
    UV_PROJECT_ENVIRONMENT=$PWD/$ENVIRONMENT .venv/bin/uv sync --quiet --frozen --no-python-downloads \
        --project $HOME_OF_LOCK --python .venv/bin/python
    printf '%s\n' "$wanted" >"$STAMP"
fi
