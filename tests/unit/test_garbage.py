"""How often the garbage collector runs while a process imports, and that what the site sets stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from django_workerguard.worker import garbage

PYTHONS = (700, 10, 10)
RARE = (garbage.RARELY, 10, 10)


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*PYTHONS)
    yield
    gc.set_threshold(*before)


def test_it_is_collected_rarely_in_the_block_and_as_before_after_it():
    with garbage.collected_rarely():
        assert gc.get_threshold() == RARE
    assert gc.get_threshold() == PYTHONS


def test_it_is_as_before_after_an_error_too():
    with pytest.raises(ImportError), garbage.collected_rarely():
        raise ImportError
    assert gc.get_threshold() == PYTHONS


@pytest.mark.parametrize("sites", [(50_000, 20, 20), (700, 20, 20), (0, 0, 0)])
def test_what_the_site_sets_during_its_load_stays(sites):
    with garbage.collected_rarely():
        gc.set_threshold(*sites)
    assert gc.get_threshold() == sites


@pytest.mark.parametrize("sites", [(50_000, 10, 10), (0, 10, 10)])
def test_what_was_set_before_the_load_stays_if_nothing_is_gained(sites):
    gc.set_threshold(*sites)
    with garbage.collected_rarely():
        assert gc.get_threshold() == sites
    assert gc.get_threshold() == sites


def test_a_block_within_a_block_ends_as_the_outer_one_began():
    with garbage.collected_rarely():
        with garbage.collected_rarely():
            pass
        assert gc.get_threshold() == RARE
    assert gc.get_threshold() == PYTHONS


def test_a_mold_collects_nothing_and_its_workers_collect_again():
    garbage.pause()
    with garbage.collected_rarely():
        assert gc.get_threshold()[0] == 0
    garbage.resume()
    assert gc.get_threshold() == PYTHONS


def test_a_worker_of_a_mold_keeps_what_the_site_has_set_in_it():
    garbage.pause()
    gc.set_threshold(50_000, 20, 20)
    garbage.resume()
    assert gc.get_threshold() == (50_000, 20, 20)
