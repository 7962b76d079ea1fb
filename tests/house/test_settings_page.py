"""docs/settings.md says what config.py says, and no setting is without effect."""

import importlib.util
import re
from pathlib import Path

from diminet.config import Settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "settings_page.py"
IN_CONFIG = {"bgp_asns", "plain_http", "url", "data_dir", "vim_database"}  # used by config itself
ONE_VALUE = {"kind"}


def page() -> str:
    spec = importlib.util.spec_from_file_location("settings_page", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.page())


def test_the_page_is_that_of_the_code() -> None:
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == page(), "run: .venv/bin/python scripts/settings_page.py > docs/settings.md"


def test_the_page_has_every_setting_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", page(), re.MULTILINE)
    fields = [name for f in Settings.model_fields.values() for name in f.annotation.model_fields]
    assert [name for name, _, _ in rows] == fields
    assert all(meaning.strip() for _, _, meaning in rows)


def test_no_setting_is_without_effect() -> None:
    sources = [p.read_text() for p in (ROOT / "src" / "diminet").rglob("*.py") if p.name != "config.py"]
    used = set(re.findall(r"\.(\w+)", "\n".join(sources)))
    fields = {name for f in Settings.model_fields.values() for name in f.annotation.model_fields}
    assert fields - used - IN_CONFIG - ONE_VALUE == set()
