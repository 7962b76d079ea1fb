"""Make the database (and keys) of a Keystone or a Neutron whose configuration is in the working directory.

    python -P make_template.py keystone|neutron < accounts.json

accounts.json is for Keystone: {"admin_password": TEXT, "projects": [NAME], "users": [{"name", "password",
"project", "roles": [NAME]}]}. Sqlite cannot run Neutron's migrations (they alter constraints), so its
tables are made from the models of the installed release.
"""

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any


def make_keystone(accounts: dict[str, Any]) -> None:
    import keystone.conf
    import keystone.server
    from keystone.cmd import bootstrap
    from keystone.common import fernet_utils
    from keystone.common.sql import upgrades
    from keystone.credential.providers import fernet as credential_fernet

    keystone.server.configure(config_files=[str(Path("keystone.conf").resolve())])
    conf = keystone.conf.CONF
    for directory, most, section in (
        (conf.fernet_tokens.key_repository, conf.fernet_tokens.max_active_keys, "fernet_tokens"),
        (conf.fernet_receipts.key_repository, conf.fernet_receipts.max_active_keys, "fernet_receipts"),
        (conf.credential.key_repository, credential_fernet.MAX_ACTIVE_KEYS, "credential"),
    ):
        keys = fernet_utils.FernetUtils(directory, most, section)
        keys.create_key_directory()
        keys.initialize_key_repository()
    upgrades.offline_sync_database_to_version()
    admin = bootstrap.Bootstrapper()
    admin.admin_username = admin.project_name = admin.admin_role_name = "admin"
    admin.admin_password = accounts["admin_password"]
    admin.service_name = "keystone"
    admin.bootstrap()
    _add_accounts(accounts)


def _add_accounts(accounts: dict[str, Any]) -> None:
    from keystone.common import provider_api

    providers = provider_api.ProviderAPIs
    roles = {role["name"]: role["id"] for role in providers.role_api.list_roles()}
    projects = {}
    for name in accounts["projects"]:
        projects[name] = uuid.uuid4().hex
        project = {"id": projects[name], "name": name, "domain_id": "default", "enabled": True}
        providers.resource_api.create_project(projects[name], project)
    for user in accounts["users"]:
        fields = {key: user[key] for key in ("name", "password")}
        made = providers.identity_api.create_user({**fields, "domain_id": "default", "enabled": True})
        for role in user["roles"]:
            providers.assignment_api.add_role_to_user_and_project(
                made["id"], projects[user["project"]], roles[role]
            )


def make_neutron() -> None:
    from neutron import server
    from neutron.server import api
    from neutron_lib.db import api as database

    os.environ["OS_NEUTRON_CONFIG_DIR"] = os.getcwd()
    os.environ["OS_NEUTRON_CONFIG_FILES"] = "neutron.conf"
    server._init_configuration(prog="neutron-api")
    from networking_bgpvpn.neutron.db import head

    with database.get_context_manager().writer.get_engine().begin() as connection:
        head.get_metadata().create_all(connection)
    # A first start fills in what every start looks for: segments, default flavours, quotas.
    api.api_server()


def main(arguments: list[str]) -> None:
    kind = arguments[1]
    sys.argv = [kind]  # both parse it
    if kind == "keystone":
        make_keystone(json.load(sys.stdin))
    else:
        make_neutron()
    sys.stdout.flush()
    os._exit(0)  # Neutron leaves threads behind


if __name__ == "__main__":
    main(sys.argv)
