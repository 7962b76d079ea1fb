"""What tests of one instance beside the real cloud need: its clouds.yaml, and an asyncio runner."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from diminet.cloud import Cloud as SiteCloud
from diminet.cloud import Entry
from diminet.lab.openstack.cloud import SHARED, Cloud

T = TypeVar("T")


@contextmanager
def site_cloud(
    cloud: Cloud, directory: Path, *, site: str = "A", user: str = "diminet", keystone: str = SHARED
) -> Iterator[SiteCloud]:
    """As that user at that Keystone."""
    path = directory / f"clouds-{user}-{keystone}.yaml"
    path.write_text(json.dumps(cloud.clouds_yaml(user, keystone=keystone)))
    asked = SiteCloud(Entry(user, path, site), site=site, threads=4, timeout=20.0)
    try:
        yield asked
    finally:
        asked.close()


def run(work: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work() if callable(work) else work)
