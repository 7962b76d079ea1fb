"""The shape of the house (DESIGN section 2), as far as it can be read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "diminet"
ENGINE = sorted((SOURCE / "engine").glob("*.py"))
LINES_MOST = 600  # of a module; most have less than 400
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}


def test_imports_run_downwards_only() -> None:
    command = (str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.stem)
def test_the_engine_names_no_type_of_service(path: Path) -> None:
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    assert {"l2", "l3"}.isdisjoint(str(text).lower() for text in texts)


def test_logic_asks_neither_the_clock_nor_chance_nor_the_world() -> None:
    forbidden = {"time", "random", "asyncio", "os", "socket", "secrets", "pathlib", "subprocess"}
    for path in (SOURCE / "logic").glob("*.py"):
        assert forbidden.isdisjoint(_imported(path)), path


def test_errors_know_no_http() -> None:
    assert _imported(SOURCE / "errors.py") <= {"collections", "typing"}


def test_every_module_says_what_it_is_for_and_ends_in_time() -> None:
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert not text.strip() or ast.get_docstring(ast.parse(text)), path
        assert text.count("\n") <= LINES_MOST, path


def test_every_room_has_a_name() -> None:
    assert FORBIDDEN_NAMES.isdisjoint(path.stem for path in SOURCE.rglob("*"))


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found
