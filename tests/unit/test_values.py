"""A value class is what a frozen dataclass is, without the methods that each one would compile."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from django_workerguard.values import value_class


@value_class
class Step:
    name: str
    seconds: float
    at: float = dataclasses.field(default=0.0, compare=False, repr=False)


@value_class(slots=True, kw_only=True)
class Slotted:
    name: str


@value_class
class Stop:
    """It has no field."""


@value_class
class Halt:
    """It has none either."""


def test_values_are_equal_if_their_compared_fields_are():
    assert Step("app", 0.5, at=1.0) == Step("app", 0.5, at=2.0)
    assert hash(Step("app", 0.5, at=1.0)) == hash(Step("app", 0.5, at=2.0))
    assert Step("app", 0.5) != Step("app", 0.6)
    assert Step("app", 0.5) != ("app", 0.5)
    assert Slotted(name="app") == Slotted(name="app") != Slotted(name="urlconf")
    assert Stop() == Stop() != Halt()
    assert len({Stop(), Stop(), Halt()}) == 2


def test_a_value_without_a_hash_says_so():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Slotted(name=["app"]))


def test_values_are_shown_by_their_fields():
    assert repr(Step("app", 0.5, at=1.0)) == "Step(name='app', seconds=0.5)"
    assert repr(Stop()) == "Stop()"


def test_a_value_is_a_dataclass():
    step = Step("app", 0.5)
    assert dataclasses.replace(step, seconds=0.6) == Step("app", 0.6)
    assert dataclasses.asdict(Slotted(name="app")) == {"name": "app"}
    assert pickle.loads(pickle.dumps([step, Slotted(name="app")])) == [step, Slotted(name="app")]


def test_fields_are_matched_by_position():
    match Step("app", 0.5):
        case Step(name, _):
            assert name == "app"


def test_an_attribute_that_is_no_field_is_refused_where_there_are_slots():
    with pytest.raises(AttributeError):
        Slotted(name="app").nmae = ""


def test_a_method_of_its_own_is_refused():
    class Odd:
        def __repr__(self) -> str:
            return "odd"

    with pytest.raises(TypeError, match="Odd is a value class and cannot have its own __repr__"):
        value_class(Odd)


def test_python_compiles_no_method_of_a_value_but_its_init():
    own = [name for name in ("__eq__", "__hash__", "__repr__", "__setattr__") if name in Step.__dict__]
    assert all(Step.__dict__[name] is Stop.__dict__[name] for name in own)
    assert "__setattr__" not in own
