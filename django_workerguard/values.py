"""Values: classes of named fields that are equal if their fields are, and that never change.

`value_class` makes a dataclass. `dataclasses` compiles six methods for each frozen one, which was a twelfth of the CPU time
of a server's start. Here only ``__init__`` is compiled, and the others are shared. mypy checks that no field is set later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def value_class(cls: type[T], /) -> type[T]: ...
@overload
def value_class(*, kw_only: bool = False, slots: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value_class(cls: type[T] | None = None, /, *, kw_only: bool = False, slots: bool = False) -> Any:
    """Make a class a dataclass that is compared, hashed and shown by its fields."""

    def make(cls: type[T]) -> Any:
        if own := METHODS.keys() & cls.__dict__.keys():
            raise TypeError(f"{cls.__qualname__} is a value class and cannot have its own {', '.join(own)}")
        made: Any = dataclass(repr=False, eq=False, kw_only=kw_only, slots=slots)(cls)
        compared = [one.name for one in fields(made) if one.compare]
        made._compared = staticmethod(attrgetter(*compared) if compared else type)
        for name, method in METHODS.items():
            setattr(made, name, method)
        return made

    return make if cls is None else make(cls)


def from_known(cls: type[T], content: Mapping[str, Any]) -> T:
    """Make a value of the fields in ``content`` that the class knows: another release may have written others.

    Raises TypeError if a field is missing that has no default. A field that is new in a release needs a default.
    """
    known = {one.name for one in fields(cls)}  # type: ignore[arg-type] # a dataclass, as every value class
    return cls(**{name: value for name, value in content.items() if name in known})


def _equal(self: Any, other: Any) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return self._compared(self) == self._compared(other)


def _hash(self: Any) -> int:
    return hash(self._compared(self))


def _repr(self: Any) -> str:
    parts = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({', '.join(parts)})"


METHODS = {"__eq__": _equal, "__hash__": _hash, "__repr__": _repr}
