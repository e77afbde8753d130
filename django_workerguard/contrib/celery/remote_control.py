"""``celery inspect guard`` and ``celery control guard_recycle``: the fleet through Celery's own broker, host by host."""

from __future__ import annotations

from typing import Any

from celery.worker.control import control_command, inspect_command

UNGUARDED = {"error": "this worker's pool is not guarded"}


def _guarded(state: Any) -> Any:
    return getattr(getattr(state.consumer, "pool", None), "guarded", None)


@inspect_command()  # type: ignore[untyped-decorator] # Celery ships no types
def guard(state: Any, **_: Any) -> dict[str, Any]:
    """What the guard knows of the pool: state, tasks and failures of every slot, and its findings."""
    pool = _guarded(state)
    if pool is None:
        return UNGUARDED
    report: dict[str, Any] = pool.report()
    return report


@control_command(args=[("slot", str)], signature="[SLOT|all]")  # type: ignore[untyped-decorator]
def guard_recycle(state: Any, slot: str | int = "all", **_: Any) -> dict[str, str]:
    """Replace the child of one slot, or of every slot, between two tasks and within the budget."""
    pool = _guarded(state)
    if pool is None:
        return UNGUARDED
    if str(slot) != "all" and not str(slot).isdigit():
        return {"error": f"{slot!r} is neither a slot nor all"}
    which = {"all": True} if str(slot) == "all" else {"slot": int(slot)}
    refused = pool.recycle(which, f"{state.hostname}'s remote control")
    return {"error": refused} if refused else {"ok": f"recycle of {slot}: accepted"}
