"""`diminet`: the command line (DESIGN section 7).

Exit status: 0 done, 1 refused or failed, 2 misuse. A person gets one sentence, never a traceback
(DIMINET_TRACEBACK=1 shows that of a bug; `serve` logs it).
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from diminet.cli import bench, db, lab, pki, service
from diminet.cli.output import note, print_json, report
from diminet.cli.recover import recover
from diminet.cli.serve import serve
from diminet.errors import DiminetError, InternalError

DONE, FAILED = 0, 1  # misuse, 2, comes from typer
INTERRUPTED = 130  # what typer makes of Ctrl-C
TRACEBACK_VARIABLE = "DIMINET_TRACEBACK"

app = typer.Typer(
    name="diminet",
    help="Join networks of autonomous cloud sites with one request to one of them.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(serve)
app.command()(recover)
app.add_typer(service.app, name="service")
app.add_typer(service.sites_app, name="site")
app.add_typer(lab.app, name="lab")
app.add_typer(bench.app, name="bench")
app.add_typer(pki.app, name="pki")
app.add_typer(db.app, name="db")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"diminet {version('diminet')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    as_json = "--json" in arguments
    try:
        status = app(args=list(arguments), prog_name="diminet", standalone_mode=False)
    except DiminetError as error:
        report(error, as_json=as_json)
        return FAILED
    except TyperException as misuse:
        return _misused(misuse, as_json=as_json)
    except typer.Abort:
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what reads us has gone
        return FAILED
    except OSError as error:
        report(InternalError(f"{error.filename or 'system'}: {error.strerror or error}"), as_json=as_json)
        return FAILED
    except Exception as bug:  # the outermost frame: a person gets a sentence
        if os.environ.get(TRACEBACK_VARIABLE) or "serve" in arguments[:1]:  # its stderr is a log
            traceback.print_exc()
        report(
            InternalError(
                f"a bug: {type(bug).__name__}: {bug}; report it with what {TRACEBACK_VARIABLE}=1 shows"
            ),
            as_json=as_json,
        )
        return FAILED
    if status == INTERRUPTED:
        note("diminet: interrupted")
        return FAILED
    return status if isinstance(status, int) else DONE


def _misused(misuse: TyperException, *, as_json: bool) -> int:
    """no_args_is_help comes here too: its message is the help."""
    if as_json:
        print_json({"error": {"code": "misuse", "message": misuse.format_message(), "sites": []}})
    else:
        context = getattr(misuse, "ctx", None)
        hint = f"; see `{context.command_path} --help`" if context is not None else ""
        text = misuse.format_message().rstrip()
        sys.stderr.write(f"{text}\n" if "\n" in text else f"diminet: {text.rstrip('.')}{hint}\n")
    return misuse.exit_code


def run() -> None:
    """The entry point of `.venv/bin/diminet`."""
    sys.exit(main(sys.argv[1:]))
