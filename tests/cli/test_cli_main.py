"""The command as a program: exit status and what a person sees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diminet.cli.main import main

PROGRAM = [sys.executable, "-c", "from diminet.cli.main import run; run()"]


def diminet(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )


def test_version() -> None:
    done = diminet("--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "diminet", "")


@pytest.mark.parametrize("words", [[], ["service"], ["db"], ["nonsense"], ["serve", "--nonsense"]])
def test_misuse_as_a_program(words: list[str]) -> None:
    done = diminet(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_serve_without_configuration_is_one_sentence(tmp_path: Path) -> None:
    done = diminet("serve", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "there is no such file" in done.stderr


def test_a_bad_configuration_names_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "diminet.toml"
    file.write_text('[site]\nname = "A"\nnumber = 0\ncolour = "red"\n')
    done = diminet("serve", "--config", str(file))
    assert done.returncode == 1
    assert "site.colour" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -c 'from diminet.cli.main import run; run()' service --help | true",
        shell=True,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr


def test_a_bug_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr("diminet.client.NorthClient.services", broken)
    assert main(["service", "list", "--url", "http://127.0.0.1:1", "--token", "t", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "internal-error"


def test_database_upgrade_backup_restore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "diminet.toml"
    file.write_text(
        f'[site]\nname = "A"\nnumber = 1\ndata_dir = "{tmp_path}"\n[south]\nvtep_ip = "10.0.0.1"\n'
    )
    assert main(["db", "upgrade", "--config", str(file)]) == 0
    copy = tmp_path / "copy.db"
    assert main(["db", "backup", str(copy), "--config", str(file), "--json"]) == 0
    assert copy.stat().st_size > 0
    assert main(["db", "restore", str(copy), "--config", str(file), "--json"]) == 0
    out = capsys.readouterr().out
    assert str(copy) in out
