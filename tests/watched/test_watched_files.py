"""Looking at files: not too often, and never half."""

import os

import pytest

from diminet.errors import BadSurroundings
from diminet.watched import Watched, read_bytes


def test_files_are_looked_at_once_per_interval(tmp_path):
    path, now, reads = tmp_path / "f", [0.0], []
    path.write_text("one")

    def load():
        reads.append(now[0])
        return path.read_text()

    watched = Watched("file", (path,), load, recheck_s=10.0, monotonic=lambda: now[0])
    path.write_text("two!")
    now[0] = 9.9
    assert watched.get() == "one"
    now[0] = 10.0
    assert watched.get() == "two!"
    now[0] = 25.0
    assert watched.get() == "two!"
    assert reads == [0.0, 10.0]  # unchanged files are not read again


def test_a_replaced_file_of_the_same_size_and_time_is_seen(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    watched = Watched("file", (path,), path.read_text, recheck_s=0.0)
    stat = path.stat()
    (tmp_path / "g").write_text("two")
    os.utime(tmp_path / "g", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "g").replace(path)
    assert watched.get() == "two"


def test_what_failed_is_tried_again_though_the_file_is_the_same(tmp_path):
    path, broken = tmp_path / "f", []
    path.write_text("one")

    def load():
        if broken:
            raise BadSurroundings("not now")
        return path.read_text()

    watched = Watched("file", (path,), load, recheck_s=0.0)
    broken.append(True)
    path.write_text("other")
    assert watched.get() == "one"
    broken.clear()
    assert watched.get() == "other"


def test_at_start_what_is_wrong_passes_through(tmp_path):
    with pytest.raises(BadSurroundings, match=r"the thing .* does not exist"):
        Watched("thing", (tmp_path / "f",), lambda: read_bytes(tmp_path / "f", "thing"))
