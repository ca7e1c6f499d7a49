"""The table of connection states."""

import pytest

from app.gui.connection import TRANSITIONS, Connection, LinkEvent, LinkState

STATES = list(LinkState)
EVENTS = list(LinkEvent)


@pytest.mark.parametrize("state", STATES)
def test_every_state_can_be_left_for_running(state: LinkState) -> None:
    if state is not LinkState.RUNNING:
        assert Connection(state).after(LinkEvent.ANSWERED).state is LinkState.RUNNING


@pytest.mark.parametrize("state", [LinkState.RUNNING, LinkState.STARTING, LinkState.STOPPING, LinkState.STOPPED])
def test_silence_is_never_taken_for_health(state: LinkState) -> None:
    after = Connection(state).after(LinkEvent.SILENT, "no answer")
    assert (after.state, after.reason) == (LinkState.UNREACHABLE, "no answer")


def test_a_newer_reason_replaces_the_older() -> None:
    old = Connection(LinkState.UNREACHABLE, "refused")
    assert old.after(LinkEvent.SILENT, "no answer") == Connection(LinkState.UNREACHABLE, "no answer")


def test_a_pair_outside_the_table_changes_nothing() -> None:
    stopping = Connection(LinkState.STOPPING, "")
    assert stopping.after(LinkEvent.START) is stopping


def test_the_table_holds_only_changes() -> None:
    assert all(state is not target for (state, _), target in TRANSITIONS.items())
