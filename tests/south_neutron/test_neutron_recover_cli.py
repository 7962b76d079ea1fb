"""`diminet recover` on a site beside a real Neutron."""

import asyncio
import json
import uuid

from diminet.cli.main import DONE, FAILED, main
from neutron_site import NeutronSite

CONFIG = """
[site]
name = "C"
number = 3
data_dir = "{directory}/data"
[south]
kind = "neutron"
[openstack]
file = "{directory}/clouds.yaml"
cloud = "diminet"
[identity]
kind = "keystone"
[directory]
kind = "keystone"
"""


def test_it_shows_takes_in_and_gives_up_what_neutron_remembers(cloud, tmp_path, capsys):
    service = str(uuid.uuid4())
    here = NeutronSite(cloud, "C")
    (tmp_path / "clouds.yaml").write_text(json.dumps(cloud.clouds_yaml("diminet")))
    (tmp_path / "diminet.toml").write_text(CONFIG.format(directory=tmp_path))

    def recover(*arguments):
        status = main(["recover", "--config", str(tmp_path / "diminet.toml"), "--json", *arguments])
        return status, json.loads(capsys.readouterr().out)

    network = asyncio.run(here.south.make_network(service, here.project, "web", "C"))
    try:
        for arguments, found in (((), 1), (("--adopt",), 1), ((), 0)):
            status, told = recover(*arguments)
            assert status == DONE, told
            assert (len(told["lost"]), told["adopted"]) == (found, bool(arguments))
            assert all(r["network_id"] == network and r["service_id"] == service for r in told["lost"])
        assert recover("--discard", service)[0] == DONE
        status, told = recover("--discard", str(uuid.uuid4()))
        assert (status, told["error"]["code"]) == (FAILED, "service-not-found")
    finally:
        here.close()
        for vpn in here.admin.list("bgpvpn"):
            here.admin.drop("bgpvpn", vpn["id"])
        here.tenant.clear(network)
