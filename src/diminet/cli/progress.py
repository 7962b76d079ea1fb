"""Waiting for a service, with a table that shows how far each site is."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.live import Live

from diminet.cli import views
from diminet.cli.output import console
from diminet.client import ApiError, NorthClient
from diminet.errors import SiteUnreachable

POLL_INTERVAL = 0.3  # seconds between two looks
WAIT_MOST = 60.0  # seconds; a create ends by the instance's request_timeout (10), its undo included


def shows_progress() -> bool:
    return sys.stdout.isatty()


def until_settled(
    client: NorthClient, service_id: str, *, poll: float = POLL_INTERVAL, most: float = WAIT_MOST
) -> dict[str, Any]:
    """The service once it is not pending any more; a live table on the terminal meanwhile."""
    seen: dict[str, Any] | None = None
    with Live(console=console(), refresh_per_second=8, transient=True) as live:
        for seen in looks(client, service_id, poll=poll, most=most):
            live.update(views.resources(seen))
    if seen is None:
        raise SiteUnreachable(f"service {service_id} was not seen at {client.url}: ask again with `show`")
    return seen


def looks(
    client: NorthClient,
    service_id: str,
    *,
    poll: float = POLL_INTERVAL,
    most: float = WAIT_MOST,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """The service, again and again, until it is settled or `most` seconds have passed.

    A 404 at first is a create that has not written its intent yet; it ends the looks later on.
    """
    end = time.monotonic() + most
    seen = False
    while time.monotonic() < end:
        try:
            service = client.show(service_id).service
        except ApiError as error:
            if error.status != 404 or seen:
                raise
        else:
            seen = True
            yield service
            if not service["provisioning_status"].startswith("PENDING"):
                return
        sleep(poll)
