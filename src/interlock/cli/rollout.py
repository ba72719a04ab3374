"""`interlock rollout`: asks the admin API of a running server."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from interlock.cli.output import json_option, print_json, print_table
from interlock.errors import ConfigError, ConnectionLostError, InputError, InterlockError

TOKEN_VARIABLE = "INTERLOCK_ADMIN_TOKEN"
URL_VARIABLE = "INTERLOCK_URL"

_LONGEST = 86_400.0

Command = TypeVar("Command", bound=Callable[..., Any])


class RefusedByServerError(InterlockError):
    """The server answered with an error.

    server_code  the code that the server gave it
    """

    code = "refused_by_server"

    def __init__(
        self, message: str, *, hint: str = "", server_code: str = "", retryable: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.server_code = server_code
        self._retryable = retryable

    @property
    def retryable(self) -> bool:
        """As the server says."""
        return self._retryable

    def to_dict(self) -> dict[str, Any]:
        """See `InterlockError.to_dict`; with `server_code`."""
        return {**super().to_dict(), "server_code": self.server_code}


@click.group("rollout")
def command() -> None:
    """Roll a new version of a served model out, and back.

    The token of the admin API is read from INTERLOCK_ADMIN_TOKEN or from --token-file.
    """


def _connection(function: Command) -> Command:
    for option in (
        click.option(
            "--url",
            envvar=URL_VARIABLE,
            default="http://127.0.0.1:8000",
            show_default=True,
            help=f"The server; also {URL_VARIABLE}.",
        ),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            help="File with the admin token.",
        ),
        click.option(
            "--ca", type=click.Path(path_type=Path), help="PEM file of the server's certificate."
        ),
        click.option(
            "--timeout", default=150.0, show_default=True, help="Seconds to wait for the answer."
        ),
        json_option,
    ):
        function = option(function)
    return function


@command.command("start")
@click.argument("model")
@click.argument("path")
@click.option("--digest", help="sha256:<hex> that the new version must have.")
@click.option("--mode", type=click.Choice(("shadow", "canary")), help="By default the model's.")
@click.option("--percent", type=click.FloatRange(0.01, 99), help="Of the clients, for a canary.")
@_connection
def start(
    model: str,
    path: str,
    digest: str | None,
    mode: str | None,
    percent: float | None,
    **options: Any,
) -> int:
    """Load the version at PATH beside MODEL and give it traffic.

    PATH is relative to the directory of the server's configuration. With the PATH of the rollout
    that runs, its mode and percent are changed.
    """
    asked = {"path": path, "digest": digest, "mode": mode, "percent": percent}
    return _show(_ask(f"{_of(model)}/rollout", options, asked), options)


@command.command("status")
@click.argument("model", required=False)
@_connection
def status(model: str | None, **options: Any) -> int:
    """Show the rollout of MODEL, or of every model, with its numbers and latest decisions."""
    if model is not None:
        return _show(_ask(f"{_of(model)}/rollout", options), options)
    found = _ask("/v1/admin/rollouts", options)
    if options["as_json"]:
        print_json(found)
        return 0
    for one in found["models"]:
        _print(one)
    return 0


@command.command("promote")
@click.argument("model")
@click.option("--reason", default="asked for", help="For the journal.")
@_connection
def promote(model: str, reason: str, **options: Any) -> int:
    """Let the new version of MODEL answer everything."""
    return _show(_ask(f"{_of(model)}/rollout/promote", options, {"reason": reason}), options)


@command.command("rollback")
@click.argument("model")
@click.option("--reason", default="asked for", help="For the journal.")
@click.option(
    "--previous", is_flag=True, help="To the version before this one, also after a rollback."
)
@_connection
def rollback(model: str, reason: str, previous: bool, **options: Any) -> int:
    """End the rollout of MODEL; where none runs, return to the version before this one.

    Where the last rollout was rolled back, --previous is needed for that: the same order again, or
    one that comes after the server's own, changes nothing.
    """
    asked = {"reason": reason, "previous": True} if previous else {"reason": reason}
    return _show(_ask(f"{_of(model)}/rollout/rollback", options, asked), options)


@command.command("reload")
@click.argument("model")
@click.option("--path", help="Another path, relative to the configuration's directory.")
@click.option("--digest", help="sha256:<hex> that it must have.")
@_connection
def reload(model: str, path: str | None, digest: str | None, **options: Any) -> int:
    """Load MODEL again from its files, without a dropped request."""
    found = _ask(f"{_of(model)}/reload", options, {"path": path, "digest": digest})
    if options["as_json"]:
        print_json(found)
    else:
        told = "runs now" if found["changed"] else "ran already; nothing changed"
        click.echo(f"{found['model']}  {found['digest']} {told}")
    return 0


def _of(model: str) -> str:
    return f"/v1/admin/models/{urllib.parse.quote(model, safe='')}"


def _ask(path: str, options: dict[str, Any], body: dict[str, Any] | None = None) -> Any:
    """The answer to a GET, or to a POST of `body`; raises InterlockError."""
    url, timeout = _checked(options["url"]), options["timeout"]
    if not 0 < timeout < _LONGEST:
        raise ConfigError(f"--timeout is {timeout}; it must be above 0 and below {_LONGEST:g}")
    request = urllib.request.Request(
        url + path,
        None if body is None else msgspec.json.encode(body),
        {
            "authorization": f"Bearer {_token(options['token_file'])}",
            "content-type": "application/json",
        },
    )
    handlers: list[Any] = [_NoRedirect()]
    if url.startswith("https:"):
        try:
            context = ssl.create_default_context(cafile=options["ca"])
        except (OSError, ssl.SSLError):
            raise ConfigError(f"--ca {options['ca']} cannot be read") from None
        handlers.append(urllib.request.HTTPSHandler(context=context))
    else:
        # A proxy of the environment would be sent the token, and is no way to this machine.
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as reply:
            return msgspec.json.decode(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error.code, error.read()) from None
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        why = getattr(error, "reason", None) or error
        raise ConnectionLostError(f"{url} cannot be asked: {why}", hint=_hint(why)) from None
    except msgspec.DecodeError:
        raise RefusedByServerError(f"{url} did not answer with JSON") from None


def _hint(why: object) -> str:
    if isinstance(why, ssl.SSLCertVerificationError):
        return "name the certificate, or its authority's, with --ca, and the host as it is in it"
    if isinstance(why, ssl.SSLError):
        return "is it serving with TLS? --url http://… asks without"
    if isinstance(why, http.client.RemoteDisconnected):
        return "is it serving with TLS? --url https://… asks with it"
    return "is it serving?"


def _checked(url: str) -> str:
    """The server's address; raises ConfigError for one over which the token could be read."""
    try:
        found = urllib.parse.urlsplit(url)
        valid = found.scheme in ("http", "https") and found.hostname and found.port != 0
    except ValueError:
        valid = False
    if not valid:
        told = "it must start with http:// or https:// and a host, and may have a port"
        raise ConfigError(f"--url is {url!r}; {told}")
    if found.username is not None:
        raise ConfigError("--url names a user", hint="the admin token is all that is asked for")
    if found.scheme == "http" and found.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(
            "--url is not this machine, and http would let others read the token",
            hint="serve with TLS and use https://",
        )
    return url.rstrip("/")


def _token(file: Path | None) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if file is not None:
        try:
            lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
        except UnicodeDecodeError:
            raise ConfigError(f"--token-file {file} is not UTF-8") from None
        except OSError as error:
            raise ConfigError(f"--token-file {file}: {error.strerror}") from None
        token = next((line for line in lines if line and not line.startswith("#")), "")
    if not token:
        raise ConfigError("no admin token is given", hint=f"set {TOKEN_VARIABLE}, or --token-file")
    if not token.isascii() or not token.isprintable():
        raise InputError("the admin token must be printable ASCII")
    return token


def _refused(status: int, body: bytes) -> InterlockError:
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        told = {}
    message = str(told.get("error") or f"the server answered {status}")
    hint = str(told.get("hint") or "")
    if told.get("code") == "unknown_path":
        hint = "the server has no admin API; set admin_token or admin_tokens_file"
    return RefusedByServerError(
        message,
        hint=hint,
        server_code=str(told.get("code") or ""),
        retryable=told.get("retryable") is True,
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes where it was meant to go."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _show(found: dict[str, Any], options: dict[str, Any]) -> int:
    if options["as_json"]:
        print_json(found)
    else:
        _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    stable = found["stable"]
    told = "not ready" if stable is None else f"{stable['digest']}  {stable['path']}"
    click.echo(f"{found['model']}  {told}")
    if found["fault"]:
        click.echo(f"  fault: {found['fault']}")
    running = found["rollout"]
    if running is not None:
        asked = _asked(running["mode"], running["percent"])
        held = f", left to you: {running['held']}" if running["held"] else ""
        since = f", since {running['started']}, from {running['path']}"
        click.echo(f"  {asked} of {running['candidate']}{since}{held}")
        if running["mode"] == "shadow" and running["shadow"]:
            told = ", ".join(f"{word} {number}" for word, number in running["shadow"].items())
            click.echo(f"  of its requests: {told}")
        _print_evidence(running["evidence"])
    for made in found["decisions"][-5:]:
        click.echo(f"  {made['at']}  {made['decision']}{_of_what(made)}: {made['reason']}")


def _asked(mode: str, percent: float) -> str:
    return f"{mode} {percent:g}%" if mode == "canary" else mode


def _of_what(decision: dict[str, Any]) -> str:
    """What a decision was about, where its numbers tell: otherwise many lines look alike."""
    numbers = decision["numbers"]
    if decision["decision"] != "started" or not {"mode", "percent", "path"} <= numbers.keys():
        return ""
    return f" ({_asked(numbers['mode'], numbers['percent'])} of {numbers['path']})"


def _print_evidence(evidence: dict[str, Any]) -> None:
    answers, least = evidence.get("answers", 0), evidence.get("min_requests", 0)
    if answers < least:
        told = f"{answers} answers of the candidate; nothing is decided below {least}"
        click.echo(f"  {told}")
    rows = []
    for name, trigger in evidence.get("triggers", {}).items():
        cells = [name]
        for version in ("candidate", "stable"):
            counted = trigger[version]
            share = counted["share"]
            cells.append(
                "-" if share is None else f"{share:.2%} of {counted['answers']}",
            )
        cells.append("-" if trigger["limit"] is None else f"{100 * trigger['limit']:.4g}%")
        rows.append(cells)
    print_table(("  share of answers", "candidate", "stable", "limit"), _indented(rows))


def _indented(rows: list[list[str]]) -> list[list[str]]:
    return [[f"  {row[0]}", *row[1:]] for row in rows]
