"""`diminet service …` and `diminet site …`: the REST API for users from the command line."""

import json
from typing import Annotated, Any

import typer

from diminet.cli import progress, views
from diminet.cli.output import console, note
from diminet.cli.session import Session, with_session
from diminet.client import ApiError

app = typer.Typer(help="Inter-site services: create, look at, change, delete.", no_args_is_help=True)
sites_app = typer.Typer(help="The other sites.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the service.")]
SiteNetwork = Annotated[str, typer.Argument(metavar="SITE[:NETWORK_ID]", help="A site, or a network of it.")]
Name = Annotated[str | None, typer.Option("--name", help="Name, at most 255 characters.")]
Description = Annotated[str | None, typer.Option("--description", help="What it is for.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")]


@app.command()
@with_session
def create(
    session: Session,
    entries: Annotated[
        list[str],
        typer.Argument(
            metavar="SITE[:NETWORK_ID]...",
            help="Two or more; in an l2 service a site without network makes one.",
        ),
    ],
    kind: Annotated[str, typer.Option("--type", help="l2 (stretch a network) or l3 (route between them).")],
    name: Name = None,
    params: Annotated[
        list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="e.g. gateway=shared.")
    ] = None,
    defer: Annotated[
        bool, typer.Option("--defer", help="Go on without sites that cannot be reached; they follow later.")
    ] = False,
    description: Description = None,
    tags: Tags = None,
) -> None:
    """Join networks of several sites, the asked one among them."""
    body = {
        "type": kind,
        "resources": [entry_of(text) for text in entries],
        **_given(name=name, description=description, tags=tags, params=_params(params)),
        **({"on_unreachable": "defer"} if defer else {}),
    }
    live = progress.shows_progress() and not session.as_json
    answer = session.client.create(body, respond_async=live)
    made = answer.service
    if live and answer.status == 202:
        made = progress.until_settled(session.client, made["id"])
        _raise_if_revoked(made)
    session.answer({"service": made}, lambda: _tell_made(made))


@app.command("list")
@with_session
def list_services(
    session: Session,
    kind: Annotated[str | None, typer.Option("--type", help="Only of that type.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Only of that name.")] = None,
    status: Annotated[str | None, typer.Option("--status", help="Only of that provisioning status.")] = None,
    member: Annotated[str | None, typer.Option("--member", help="Only with that site.")] = None,
    tags: Annotated[str | None, typer.Option("--tags", help="Only with these tags (a,b).")] = None,
) -> None:
    """The services that the asked site knows."""
    services = session.client.services(**_given(type=kind, name=name, status=status, site=member, tags=tags))
    session.answer({"services": services}, lambda: console().print(views.service_list(services)))


@app.command()
@with_session
def show(session: Session, service_id: Id) -> None:
    """One service with its resources."""
    _answer_service(session, session.client.show(service_id).service)


@app.command("set")
@with_session
def modify(
    session: Session,
    service_id: Id,
    name: Name = None,
    description: Description = None,
    tags: Tags = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all tags away.")] = False,
    on_unreachable: Annotated[str | None, typer.Option("--on-unreachable", help="revoke or defer.")] = None,
    if_match: Annotated[
        str | None, typer.Option("--if-match", help="Only if the service still has that ETag.")
    ] = None,
) -> None:
    """Change name, description, tags or what happens when a site cannot be reached."""
    if tags and no_tags:
        raise typer.BadParameter("--tag and --no-tags do not go together")
    changes = _given(
        name=name, description=description, tags=[] if no_tags else tags, on_unreachable=on_unreachable
    )
    if not changes:
        raise typer.BadParameter("say what to change: --name, --description, --tag, --on-unreachable")
    _answer_service(session, session.client.modify(service_id, changes, if_match=if_match).service)


@app.command()
@with_session
def add(
    session: Session,
    service_id: Id,
    entry: SiteNetwork,
    via: Annotated[
        str | None,
        typer.Option("--via", help="A site of the service, if the asked one is not yet a member itself."),
    ] = None,
) -> None:
    """Let a network, or a site, join a service."""
    _answer_service(session, session.client.add(service_id, entry_of(entry), via=via).service)


@app.command()
@with_session
def remove(session: Session, service_id: Id, entry: SiteNetwork) -> None:
    """Let a network, or all networks of a site, leave a service."""
    wanted = entry_of(entry)
    answer = session.client.remove(service_id, wanted["site"], wanted.get("resource_id"))
    if answer.status == 202 and not session.as_json:
        note(f"{wanted['site']} cannot be reached: it is told when it is back")
    _answer_service(session, answer.service)


@app.command()
@with_session
def delete(session: Session, service_id: Id) -> None:
    """Delete a service everywhere; networks that you made stay."""
    answer = session.client.delete(service_id)
    done = answer.status == 204
    left = (answer.body or {}).get("service") or {}
    document = {"id": service_id, "deleted": done} | ({"service": left} if left else {})
    session.answer(document, lambda: console().print(_deletion(service_id, left, done=done)))


@app.command()
@with_session
def events(session: Session, service_id: Id) -> None:
    """Who asked what, and what became of it."""
    history = session.client.events(service_id)
    session.answer({"events": history}, lambda: console().print(views.events(history)))


@app.command()
@with_session
def watch(session: Session, service_id: Id) -> None:
    """Follow a service's events until it is gone or Ctrl-C; with --json until it is settled."""
    if session.as_json:
        seen = list(progress.looks(session.client, service_id))
        history = session.client.events(service_id)
        session.answer({"service": seen[-1] if seen else None, "events": history}, lambda: None)
        return
    out = console()
    out.print(views.service(session.client.show(service_id).service))
    try:
        for event in session.client.stream(service_id):
            out.print(views.event_line(event.data))
    except KeyboardInterrupt:
        return


@app.command()
@with_session
def takeover(
    session: Session,
    service_id: Id,
    gone: Annotated[
        list[str] | None, typer.Option("--gone", help="A site that you declare gone; may be repeated.")
    ] = None,
) -> None:
    """Make the asked site the master of a service: its master agrees, or is gone (admin)."""
    _answer_service(session, session.client.takeover(service_id, gone or []).service)


@app.command()
@with_session
def forget(
    session: Session,
    service_id: Id,
    site: Annotated[str, typer.Argument(metavar="SITE", help="A site whose database is destroyed.")],
) -> None:
    """Wait no longer for a site that is lost for good, and free its addresses (admin, at the master)."""
    answer = session.client.forget(service_id, site)
    if answer.status == 204:
        document = {"id": service_id, "deleted": True}
        session.answer(document, lambda: console().print(_deletion(service_id, {}, done=True)))
    else:
        _answer_service(session, answer.service)


@sites_app.command("list")
@with_session
def list_sites(session: Session) -> None:
    """The sites of the directory, as the asked one sees them."""
    known = session.client.sites()
    session.answer({"sites": known}, lambda: console().print(views.sites(known)))


def entry_of(text: str) -> dict[str, str]:
    """`SITE` or `SITE:NETWORK_ID` as an entry of `resources`."""
    site, colon, network = text.partition(":")
    if not site or (colon and not network):
        raise typer.BadParameter(f"{text!r} is neither SITE nor SITE:NETWORK_ID")
    return {"site": site, "resource_id": network} if network else {"site": site}


def _params(pairs: list[str] | None) -> dict[str, Any] | None:
    """`KEY=VALUE`; a value that is JSON (16, true, null) is taken as such, other text as text."""
    params: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE")
        try:
            params[key] = json.loads(value)
        except ValueError:
            params[key] = value
    return params or None


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _raise_if_revoked(made: dict[str, Any]) -> None:
    """Behind a 202 the refusal is the service's fault: the same sentence as a plain create gets."""
    if made["provisioning_status"] in ("REVOKED", "ERROR") and made.get("fault"):
        raise ApiError(409, made["fault"])


def _tell_made(made: dict[str, Any]) -> None:
    console().print(views.service(made))
    waiting = [e["site"] for e in made["resources"] if e.get("provisioning_status") == "PENDING_CREATE"]
    if waiting:
        note(f"waiting for {', '.join(waiting)}: completed when reachable; see `diminet service watch`")


def _deletion(service_id: str, left: dict[str, Any], *, done: bool) -> str:
    if done:
        return f"service {service_id} is deleted at every site"
    sites = ", ".join(left.get("waiting") or ()) or "sites that cannot be reached"
    return f"service {service_id} is deleted here; waiting for {sites}: told when back"


def _answer_service(session: Session, view: dict[str, Any]) -> None:
    session.answer({"service": view}, lambda: console().print(views.service(view)))
