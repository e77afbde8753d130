"""The configuration of the site's server, from the output of ``--print-config``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from django_workerguard.errors import DEFAULT, ConfigurationError
from django_workerguard.values import value_class

LINE = re.compile(r"(?P<name>[a-z0-9-]+)  +(?P<value>.*?)  \[(?P<where>.*)\]")


@value_class
class Value:
    """A value as text, and the place where it was set."""

    text: str
    where: str = DEFAULT

    @property
    def is_set(self) -> bool:
        return self.where != DEFAULT


@value_class
class Configuration:
    """Every value by the name of its option, with dashes."""

    values: Mapping[str, Value]

    def __getitem__(self, name: str) -> Value:
        return self.values.get(name, Value(""))

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word for word in self[name].text.split(",") if word)

    def number(self, name: str) -> float:
        """Return a number, 0 if there is none."""
        try:
            return float(self[name].text)
        except ValueError:
            return 0.0


def parse(output: str) -> Configuration:
    """Parse the output of ``--print-config``. Raises ConfigurationError if there is no value in it."""
    matches = filter(None, map(LINE.fullmatch, output.splitlines()))
    values = {match["name"]: Value(match["value"], match["where"]) for match in matches}
    if not values:
        raise ConfigurationError("the server has not printed its configuration")
    return Configuration(values)
