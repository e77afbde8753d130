"""Rules for the addresses, the protocols, TLS and the limits of a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from django_workerguard.config.monitor_address import MonitorAddress
from django_workerguard.from_uwsgi.directive import Directive
from django_workerguard.from_uwsgi.translate.draft import (
    Address,
    Draft,
    Outcome,
    ValueNotUnderstoodError,
    becomes,
    elsewhere,
    is_on,
    key_values,
    lost,
    not_needed,
    number,
)
from django_workerguard.from_uwsgi.translate.workers import Rule

LONGEST_LINE = 8190  # bytes: gunicorn's limit for the request line
DEFAULT_LINE, DEFAULT_FIELD = 4094, 8190  # bytes
MOST_FIELDS = 32768
_PORT = re.compile(r"(?P<host>.*):(?P<port>\d{1,5})")
_HOST = re.compile(r"[\w.-]*|\[[0-9a-fA-F:.%\w]*\]")
HTTP = ("http", "httprouter", "http-socket", "http11-socket", "https", "https2", "https-socket")
PROTOCOLS = {"http": "http", "http11": "http", "uwsgi": "uwsgi"}


def bind_of(value: str) -> str:
    """Turn uWSGI's address into gunicorn's. Raises ValueNotUnderstoodError."""
    value = value.strip()
    if value.startswith("fd://"):
        return value
    found = _PORT.fullmatch(value)
    if found is None:
        if not value or value.startswith(("@", "=")) or ":" in value:
            raise ValueNotUnderstoodError(f"{value!r} is not an address with a port or the path of a socket")
        return f"unix:{value}"
    host = found["host"]
    if not _HOST.fullmatch(host) or int(found["port"]) > 65535:
        raise ValueNotUnderstoodError(f"{value!r} is not an address with a port")
    return f"{host or '0.0.0.0'}:{int(found['port'])}"


def _http(one: Directive, draft: Draft) -> Outcome:
    return _listen(one, draft, "http")


def _uwsgi(one: Directive, draft: Draft) -> Outcome:
    protocol = draft.last("protocol", "socket-protocol") if one.key == "socket" else ""
    if protocol and protocol not in PROTOCOLS:
        return lost(f"gunicorn does not speak {protocol!r}: let the proxy use HTTP")
    spoken = PROTOCOLS.get(protocol, "uwsgi")
    if spoken == "uwsgi" and draft.all(*HTTP) and not one.value.startswith("="):
        bind = bind_of(one.value)
        draft.addresses.append(Address(bind, "http"))
        draft.snippet("nginx, in place of uwsgi_pass", _proxy_pass(bind))
        return becomes(
            f"BIND = {bind}, which speaks HTTP as the other address does: change uwsgi_pass to proxy_pass (see below)"
        )
    return _listen(one, draft, spoken)


def _proxy_pass(bind: str) -> str:
    target = bind if bind.startswith("unix:") else re.sub(r"^0\.0\.0\.0:", "127.0.0.1:", bind)
    return f"location / {{\n    proxy_pass http://{target};\n    include /etc/nginx/proxy_params;\n}}"


def _listen(one: Directive, draft: Draft, protocol: str) -> Outcome:
    if one.value.startswith("="):
        return elsewhere("a systemd socket unit makes the socket; leave BIND out")
    bind = bind_of(one.value)
    draft.addresses.append(Address(bind, protocol))
    is_relative = bind.startswith("unix:") and not bind.startswith("unix:/")
    where = (
        "; the path is relative to CHDIR here, and to the directory of the start in uWSGI"
        if is_relative
        else ""
    )
    return becomes((f"BIND = {bind}" if protocol == "http" else f"BIND = {bind}, PROTOCOL = uwsgi") + where)


def _https(one: Directive, draft: Draft) -> Outcome:
    if one.key == "https2":
        given = key_values(one.value)
        parts = [given.get(name, "") for name in ("addr", "cert", "key", "ciphers", "client_ca")]
    else:
        parts = [*(part.strip() for part in one.value.split(",")), "", "", "", ""][:5]
    address, certificate, key, ciphers, authority = parts
    if not certificate or not key:
        raise ValueNotUnderstoodError(f"{one.value!r} does not name a certificate and a key")
    draft.addresses.append(Address(bind_of(address), "https"))
    draft.set("CERTFILE", certificate)
    draft.set("KEYFILE", key)
    text = f"BIND = {bind_of(address)}, CERTFILE = {certificate}, KEYFILE = {key}"
    if ciphers and ciphers != "HIGH":
        draft.set("CIPHERS", ciphers)
        text += f", CIPHERS = {ciphers}"
    if authority:
        draft.set("CA_CERTS", authority.lstrip("!"))
        draft.set("CERT_REQS", 2 if authority.startswith("!") else 1)
        text += f", CA_CERTS = {authority.lstrip('!')}"
    return becomes(text)


def _protocol(one: Directive, draft: Draft) -> Outcome:
    if one.value in PROTOCOLS:
        return becomes(f"PROTOCOL = {PROTOCOLS[one.value]}")
    return lost(f"gunicorn does not speak {one.value!r}: let the proxy use HTTP")


def _backlog(one: Directive, draft: Draft) -> Outcome:
    draft.set("BACKLOG", max(1, number(one.value)))
    return becomes(f"BACKLOG = {max(1, number(one.value))}")


def _buffer_size(one: Directive, draft: Draft) -> Outcome:
    size = number(one.value)
    line, field = max(DEFAULT_LINE, min(size, LONGEST_LINE)), max(DEFAULT_FIELD, size)
    draft.set("LIMIT_REQUEST_LINE", max(line, draft.settings.get("LIMIT_REQUEST_LINE", 0)))
    draft.set("LIMIT_REQUEST_FIELD_SIZE", max(field, draft.settings.get("LIMIT_REQUEST_FIELD_SIZE", 0)))
    more = f"; a URL can have {LONGEST_LINE} bytes at most" if size > LONGEST_LINE else ""
    return becomes(f"LIMIT_REQUEST_LINE = {line}, LIMIT_REQUEST_FIELD_SIZE = {field}{more}")


def _fields(one: Directive, draft: Draft) -> Outcome:
    count = min(max(100, number(one.value)), MOST_FIELDS)
    draft.set("LIMIT_REQUEST_FIELDS", count)
    return becomes(f"LIMIT_REQUEST_FIELDS = {count}")


def _socket_mode(one: Directive, draft: Draft) -> Outcome:
    text = one.value.strip() or "666"
    if not re.fullmatch(r"[0-7]{3,4}", text):
        raise ValueNotUnderstoodError(f"{one.value!r} is not a mode such as 660")
    draft.set("SOCKET_MODE", text[-3:])
    return becomes(f"SOCKET_MODE = {text[-3:]}")


def _socket_owner(one: Directive, draft: Draft) -> Outcome:
    draft.set("SOCKET_OWNER", one.value.strip())
    return becomes(
        f"SOCKET_OWNER = {one.value.strip()}; the server must be started by root, as with uWSGI, unless this is its own group"
    )


def _binds(draft: Draft) -> list[str]:
    binds = []
    for value in draft.all("socket", "uwsgi-socket", "http-socket", "http"):
        try:
            binds.append(bind_of(value))
        except ValueNotUnderstoodError:
            continue
    return binds


def _proxy_protocol(one: Directive, draft: Draft) -> Outcome:
    if not is_on(one.value):
        return not_needed("it is off")
    draft.set("PROXY_PROTOCOL", "v1")
    return becomes("PROXY_PROTOCOL = v1; PROXY_ALLOW_IPS names the proxies that may use it")


def _keepalive(one: Directive, draft: Draft) -> Outcome:
    if not is_on(one.value):
        return not_needed("it is off")
    seconds = number(one.value) if one.value.strip()[:1].isdigit() else 0
    if seconds > 1:
        draft.set("KEEPALIVE", seconds)
        return becomes(f"KEEPALIVE = {seconds}; sync workers close every connection")
    return not_needed("connections stay open for 2 seconds (KEEPALIVE); sync workers close every connection")


def _monitor(one: Directive, draft: Draft) -> Outcome:
    text = bind_of(one.value)
    host, _, port = text.rpartition(":")
    address = (
        text
        if text.startswith("unix:/")
        else f"{'127.0.0.1' if host in ('0.0.0.0', 'localhost') else host}:{port}"
    )
    try:
        parsed = MonitorAddress.parse(address)
    except ValueError:
        parsed = None
    if parsed is None or parsed.is_public:
        address = f"127.0.0.1:{port}" if port.isdigit() else ""
    if not address:
        return elsewhere("workerguard status --json prints the state; set MONITOR_BIND to have it over HTTP")
    draft.set("MONITOR_BIND", address)
    more = "; other hosts need HEALTH_TOKEN" if address != text else ""
    return becomes(
        f"MONITOR_BIND = {address}, whose status.json has the state{more}; workerguard status, too"
    )


def _statsd(one: Directive, draft: Draft) -> Outcome:
    kind, _, target = one.value.partition(":")
    address, _, prefix = target.partition(",")
    if kind != "statsd" or not re.fullmatch(r"[\w.-]+:\d+", address):
        return elsewhere("Prometheus: workerguard metrics, and the metrics URL")
    draft.set("STATSD_HOST", address)
    if prefix:
        draft.set("STATSD_PREFIX", prefix)
    return becomes(f"STATSD_HOST = {address}" + (f", STATSD_PREFIX = {prefix}" if prefix else ""))


def _sendfile(one: Directive, draft: Draft) -> Outcome:
    draft.set("SENDFILE", not is_on(one.value))
    return becomes(f"SENDFILE = {not is_on(one.value)}")


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("http", "httprouter", "http-socket", "http11-socket"), _http),
    **dict.fromkeys(("socket", "uwsgi-socket"), _uwsgi),
    **dict.fromkeys(("https", "https2", "https-socket"), _https),
    **dict.fromkeys(("protocol", "socket-protocol"), _protocol),
    **dict.fromkeys(("buffer-size", "http-buffer-size"), _buffer_size),
    **dict.fromkeys(("chmod-socket", "chmod"), _socket_mode),
    **dict.fromkeys(("enable-proxy-protocol", "http-enable-proxy-protocol"), _proxy_protocol),
    **dict.fromkeys(("stats", "stats-server"), _monitor),
    "listen": _backlog,
    "max-vars": _fields,
    "chown-socket": _socket_owner,
    "http-keepalive": _keepalive,
    "stats-push": _statsd,
    "disable-sendfile": _sendfile,
}
