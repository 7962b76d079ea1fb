"""Who the other sites are, by one file."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diminet.directory.file import FileDirectory, load, render, write
from diminet.errors import BadSurroundings, SiteUnknown
from diminet.model import Site


def site(name, number, **more):
    fields = {
        "north_url": f"https://{name}.example:9790",
        "east_west_url": f"https://{name}.example:9791",
    } | more
    return Site(name=name, number=number, **fields)


SITES = [site("paris", 1), site("lyon", 2), site("rome", 4095)]


def test_sites_are_found_by_name(tmp_path):
    write(tmp_path / "d.toml", SITES)
    directory = FileDirectory(tmp_path / "d.toml", "paris", 1)
    assert asyncio.run(directory.sites()) == tuple(SITES)
    assert asyncio.run(directory.site("lyon")) == SITES[1]
    with pytest.raises(SiteUnknown, match=r"no site 'oslo'.*paris, lyon, rome") as caught:
        asyncio.run(directory.site("oslo"))
    assert caught.value.sites == ("oslo",)
    for odd in ("", "PARIS", "paris\n", "x" * 100_000):
        with pytest.raises(SiteUnknown) as caught:
            asyncio.run(directory.site(odd))
        assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("sites", "says"),
    [
        ([*SITES, site("oslo", 2)], "number 2 to two sites, 'lyon' and 'oslo'"),
        ([*SITES, site("lyon", 7)], "two sites with the name 'lyon'"),
        ([*SITES, site("oslo", 7, east_west_url=SITES[1].east_west_url)], "one east_west_url to two sites"),
        (SITES[1:], "lacks this site, 'paris'; add it with number 1"),
        ([site("paris", 9)], "the number 9, but its configuration says 1"),
        ([], "lacks this site"),
    ],
)
def test_contradictions_are_refused(tmp_path, sites, says):
    (tmp_path / "d.toml").write_text(render(sites) or "sites = []")
    with pytest.raises(BadSurroundings, match=says):
        FileDirectory(tmp_path / "d.toml", "paris", 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://lyon.example:9791",
        "ftp://lyon.example",
        "lyon.example:9791",
        "https://",
        "https://:9791",
        "https://user:pw@lyon.example",
        "https://lyon.example/path",
        "https://lyon.example?x",
        "https://lyon.example#x",
        "https://lyon.example:port",
        "https://lyon.example:70000",
        "https://lyon.example:0",
        "https://lyon.example\r\nX: y",
        "https://ly on.example",
        "https://lyon.example\\@evil",
        "https://[::1",
        "https://lyön.example",
        "file:///etc/passwd",
    ],
)
def test_only_plain_base_urls(tmp_path, url):
    write(tmp_path / "d.toml", [SITES[0], site("lyon", 2, east_west_url=url)])
    with pytest.raises(
        BadSurroundings, match=r"east_west_url of site 'lyon'.*must look like https://host:port"
    ):
        FileDirectory(tmp_path / "d.toml", "paris", 1)


@pytest.mark.parametrize(
    "url", ["https://10.0.0.2:9791", "https://[2001:db8::2]:9791", "https://lyon", "https://lyon/"]
)
def test_addresses_and_names(tmp_path, url):
    write(tmp_path / "d.toml", [SITES[0], site("lyon", 2, east_west_url=url)])
    assert asyncio.run(FileDirectory(tmp_path / "d.toml", "paris", 1).site("lyon")).east_west_url == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[sites]", "not TOML"),
        ("", "sites: Field required"),
        ('[[sites]]\nname = "paris"\n', "sites.0.number"),
        (render([site("paris", 1)]) + "colour = 1\n", "sites.0.colour"),
        (render([site("paris", 1)]).replace("number = 1", "number = 4096"), "sites.0.number"),
        (render([site("paris", 1)]).replace('name = "paris"', 'name = "pa ris"'), "sites.0.name"),
    ],
)
def test_bad_files_at_start_are_clear(tmp_path, text, says):
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(BadSurroundings, match=says):
        FileDirectory(tmp_path / "d.toml", "paris", 1)
    with pytest.raises(BadSurroundings, match="does not exist"):
        FileDirectory(tmp_path / "none", "paris", 1)


def test_changes_are_taken_up_and_a_bad_file_changes_nothing(tmp_path):
    path = tmp_path / "d.toml"
    write(path, SITES[:1])
    directory = FileDirectory(path, "paris", 1, recheck_s=0.0)
    write(path, SITES[:2])
    assert asyncio.run(directory.site("lyon")).number == 2
    for content in (render(SITES[1:]), render([site("paris", 3)]), "[["):
        path.write_text(content)
        assert asyncio.run(directory.sites()) == tuple(SITES[:2])
    path.unlink()
    assert asyncio.run(directory.sites()) == tuple(SITES[:2])
    write(path, SITES)
    assert asyncio.run(directory.site("rome")).number == 4095


NAMES = st.lists(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"), min_size=1, max_size=5, unique=True)


@given(NAMES)
def test_what_is_written_is_read(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("d") / "d.toml"
    sites = [
        site(name, n, east_west_url=f"https://h{n}:9791", north_url="http://h")
        for n, name in enumerate(names, 1)
    ]
    write(path, sites)
    assert list(load(path, names[0], 1).values()) == sites
