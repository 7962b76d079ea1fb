"""Writes docs/settings.md: `.venv/bin/python scripts/settings_page.py > docs/settings.md`.

tests/house/test_settings_page.py fails when the two differ.
"""

from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diminet.config import DEFAULT_FILE, ENVIRONMENT_PREFIX, Settings
from diminet.config_values import Section

HEAD = f"""# Settings

Every setting of an instance. They are read from a TOML file (`--config`, by default
`{DEFAULT_FILE}`) whose tables are the sections below. A variable
`{ENVIRONMENT_PREFIX}<SECTION>__<SETTING>`, for example `{ENVIRONMENT_PREFIX}LIMITS__REQUEST_TIMEOUT=5`,
overrides one; lists there are JSON. Unknown settings are refused.

Written by `scripts/settings_page.py` from `src/diminet/config.py` and `config_limits.py`: change it there.
"""
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def page() -> str:
    """The whole text."""
    return HEAD + "".join(_section(name, field) for name, field in Settings.model_fields.items())


def _section(name: str, field: FieldInfo) -> str:
    section = field.annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    said = f"{section.__doc__}\n\n" if "__doc__" in vars(section) and section.__doc__ else ""
    rows = "".join(_row(key, setting) for key, setting in section.model_fields.items())
    return f"\n## [{name}]\n\n{said}| setting | default | meaning |\n|---|---|---|\n{rows}"


def _row(name: str, field: FieldInfo) -> str:
    meaning = "; ".join(part for part in (field.description, _bounds(field)) if part)
    return f"| `{name}` | {_default(field)} | {meaning.replace('|', chr(92) + '|')} |\n"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "must be given"
    return "none" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str | Path) else f"{value:g}" if _whole(value) else str(value)


def _whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < 1e6


def _bounds(field: FieldInfo) -> str:
    kind = field.annotation
    found = [f"`{word}`" for one in (kind, *get_args(kind)) for word in _words(one)]
    if len(found) > 1:
        return f"one of {', '.join(found)}"
    limits = [(key, getattr(rule, key)) for rule in field.metadata for key in BOUNDS if hasattr(rule, key)]
    return " ".join(BOUNDS[key].format(_toml(limit)) for key, limit in limits)


def _words(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal and NoneType not in get_args(kind) else ()


if __name__ == "__main__":
    print(page(), end="")
