"""What the drill has to know of the site's settings, and whether it may send requests to the site. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django_workerguard.errors import ConfigurationError
from django_workerguard.values import value_class

TEST_PREFIX = "test_"  # Django's, of the names of test databases
IN_MEMORY = ("", ":memory:")
DUMMY = "django.db.backends.dummy"


@value_class(kw_only=True)
class Database:
    """One alias of DATABASES. ``test_name`` is its TEST["NAME"], or ""."""

    alias: str
    engine: str
    name: str
    test_name: str = ""

    @property
    def is_for_tests(self) -> bool:
        """Whether nothing of value can be in it: it has no engine, lives in memory, or has the name of a test database."""
        if self.engine in ("", DUMMY):
            return True
        file = self.name.rpartition("/")[2]
        if "sqlite3" in self.engine and (self.name in IN_MEMORY or "mode=memory" in self.name):
            return True
        return file.startswith(TEST_PREFIX) or (self.name != "" and self.name == self.test_name)


@value_class(kw_only=True)
class Site:
    """The settings of the site that the drill needs."""

    module: str
    is_installed: bool = False  # the app is in INSTALLED_APPS, so manage.py has the command serve_guarded
    databases: tuple[Database, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    debug: bool = False
    ssl_redirect: bool = False
    proxy_header: tuple[str, str] | None = None  # SECURE_PROXY_SSL_HEADER
    applications: Mapping[str, str] | None = None  # module:callable by interface

    @property
    def host(self) -> str:
        """A Host that ALLOWED_HOSTS accepts."""
        named = (pattern.lstrip(".") for pattern in self.allowed_hosts if pattern != "*")
        return next(named, "localhost")

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request. Behind a proxy header the site takes the request as one over https."""
        headers = {"Host": self.host, "User-Agent": "workerguard-drill", "Accept": "*/*"}
        if self.proxy_header:
            name, value = self.proxy_header
            headers[name.removeprefix("HTTP_").replace("_", "-").title()] = value
        return headers


def site_of(content: Mapping[str, Any]) -> Site:
    """Return the site from the answer of the process that has read the settings."""
    header = content.get("proxy_header")
    return Site(
        module=content["module"],
        is_installed=content["is_installed"],
        databases=tuple(Database(**one) for one in content["databases"]),
        allowed_hosts=tuple(content["allowed_hosts"]),
        debug=content["debug"],
        ssl_redirect=content["ssl_redirect"],
        proxy_header=(header[0], header[1]) if header else None,
        applications=content["applications"],
    )


def refuse_harm(site: Site, *, read_only: bool) -> None:
    """Raise ConfigurationError if the site uses a database that is not a test one, unless ``read_only``."""
    real = [database for database in site.databases if not database.is_for_tests]
    if real and not read_only:
        raise ConfigurationError(
            "; ".join(_objections(real)),
            where=f"DATABASES in {site.module or 'the settings'}",
            hint="Name settings with a test database by --settings, or give --read-only if GET requests to the "
            "paths of the drill write nothing.",
        )


def _objections(databases: Sequence[Database]) -> Iterator[str]:
    for database in databases:
        kind = database.engine.rpartition(".")[2]
        yield f"the database {database.alias!r} ({kind}, {database.name or 'no name'}) is not a test database"
