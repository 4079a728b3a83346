"""TRN-6, TRN-7, TRN-14 and TRN-16: what is done of a training, and when it is restarted."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptycho_contracts.problems import ContractError
from ptycho_data.fitting import Attempts, no_better_than_uniform
from ptycho_data.signals import Waiting


class Ticks:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def attempts(*, epochs=20, steps=100, **options) -> Attempts:
    return Attempts(uniform_loss=0.1, **{"epochs": epochs, "steps": steps, "max_seconds": None, **options})


def test_a_loss_near_that_of_the_uniform_object_is_no_better():
    assert no_better_than_uniform(0.098, 0.1)
    assert no_better_than_uniform(math.nan, 0.1)
    assert not no_better_than_uniform(0.0979, 0.1)


def test_evaluated_from_a_quarter_of_the_budget_on():
    """Invariant 46: not before, but at the end in any case; and once."""
    training = attempts()
    assert not training.collapsed(0.1, epoch=4, step=20, ending=False)
    assert training.collapsed(0.1, epoch=5, step=25, ending=False)
    assert training.restarts == 1
    assert "after epoch 5 of 20" in training.reason
    assert not training.collapsed(0.1, epoch=20, step=100, ending=True)
    assert attempts().collapsed(0.2, epoch=1, step=5, ending=True)


def test_what_has_learned_before_is_kept():
    """A loss that was once well below the uniform object's keeps its training, whatever comes after."""
    training = attempts(epochs=4)
    assert not training.collapsed(0.05, epoch=1, step=10, ending=False)
    assert not training.collapsed(0.3, epoch=4, step=100, ending=True)
    assert (training.restarts, training.reason, training.rate, training.stage) == (0, None, 1.0, "training")


@given(st.integers(1, 1000), st.integers(0, 1000), st.floats(0.1, 1e6), st.floats(0, 0.75))
def test_what_is_left(epochs, done, seconds, used):
    """What was not used, of the epochs at least a quarter, whole ones; never more time than there was (TIME-1)."""
    clock, done = Ticks(), min(done, epochs)
    training = attempts(epochs=epochs, max_seconds=seconds, clock=clock)
    assert training.collapsed(0.1, epoch=done, step=0, ending=True)
    left = training.last_epoch - done
    assert epochs - done <= left <= epochs
    assert 4 * left >= epochs
    clock.now = used * seconds
    training.restart(70, 30)
    assert (training.rate, training.stage) == (pytest.approx(1 / 3), "training again")
    clock.now += (seconds - clock.now) * 0.5
    training.look()
    assert training.fraction(70) == pytest.approx(0.5)
    assert not training.expired
    assert training.fraction(100) == 1.0
    clock.now = seconds * (1 + 1e-9)
    training.look()
    assert training.expired


@pytest.mark.parametrize(("now", "restarts"), [(7.4, True), (7.6, False), (11.0, False)])
def test_no_restart_without_a_quarter_of_the_time(now, restarts):
    """TRN-16: it could not end in time."""
    clock = Ticks()
    training = attempts(max_seconds=10.0, clock=clock)
    clock.now = now
    training.look()
    assert training.collapsed(0.1, epoch=5, step=99, ending=True) is restarts


@given(st.integers(1, 500), st.integers(0, 600), st.floats(0.5, 100), st.floats(0, 200))
def test_the_fraction_is_that_of_the_steps_or_of_the_time(steps, step, seconds, now):
    """TRN-6: whichever is more, as all processes agree on it."""
    clock = Ticks()
    timed, free = attempts(steps=steps, max_seconds=seconds, clock=clock), attempts(steps=steps, clock=clock)
    clock.now = now
    timed.look()
    free.look()
    assert free.fraction(step) == min(1.0, step / steps)
    assert timed.fraction(step) == pytest.approx(min(1.0, max(step / steps, now / seconds)))
    assert timed.expired == (now / seconds >= 1)
    assert not free.expired
    timed.look(lambda mine: 0.25)
    assert timed.fraction(0) == 0.25


@given(
    seconds=st.floats(0.1, 7.0),
    step=st.integers(0, 60),
    later=st.floats(0.0, 30.0),
    restarts=st.booleans(),
    limited=st.booleans(),
)
def test_a_resumed_training_is_where_it_was(seconds, step, later, restarts, limited):
    """CKP-9: the same decisions, whatever the time between; of the time the schedule has what it had, and its own."""
    clocks = [Ticks(), Ticks()]
    both = [attempts(max_seconds=10.0 if limited else None, clock=clock) for clock in clocks]
    first, second = both
    clocks[0].now = seconds
    if restarts:
        assert first.collapsed(0.2, epoch=5, step=25, ending=True)
        first.restart(25, 30)
        clocks[0].now = 2 * seconds
    state = json.loads(json.dumps(first.state()))
    clocks[1].now = 1000 + later
    second.resume(state, done=5)
    assert second.resumed
    for clock in clocks:
        clock.now += 0.5
    for each in both:
        each.look()
    used, limit = (2 if restarts else 1) * seconds - (seconds if restarts else 0), 10 - (seconds if restarts else 0)
    by_time = (used + 0.5) / (used + 10) if limited else 0.0
    assert second.fraction(step) == pytest.approx(min(1, max((step - first.first_step) / first.steps, by_time)))
    if limited:
        by_time = (used + 0.5) / limit
    assert first.fraction(step) == pytest.approx(min(1, max((step - first.first_step) / first.steps, by_time)))
    names = ("restarts", "reason", "last_epoch", "rate", "stage", "first_step", "steps")
    assert [getattr(second, name) for name in names] == [getattr(first, name) for name in names]
    judged = [each.collapsed(0.2, epoch=19, step=99, ending=True) for each in both]
    assert judged == [not restarts] * 2


@given(st.integers(1, 50), st.integers(1, 200), st.integers(1, 20), st.booleans())
def test_resumed_with_other_epochs(epochs, other, per_epoch, restarts):
    """CKP-9: the steps are those of the epochs that it has now; what is done stays done."""
    first = attempts(epochs=epochs, steps=epochs * per_epoch)
    done = (epochs + 1) // 2
    if restarts:
        assert first.collapsed(0.2, epoch=done, step=done * per_epoch, ending=True)
        first.restart(done * per_epoch, (first.last_epoch - done) * per_epoch)
    state = json.loads(json.dumps(first.state()))
    second = attempts(epochs=other, steps=1)
    last = first.last_epoch + other - epochs
    if last <= done:
        with pytest.raises(ContractError, match=r"checkpoint\.budget"):
            second.resume(state, done=done)
        return
    second.resume(state, done=done)
    assert second.last_epoch == last
    assert second.steps == (last - (done if restarts else 0)) * per_epoch


def test_a_signal_ends_a_training_that_is_then_not_restarted():
    """TRN-17: after the step in which it came, for all processes if one agrees."""
    signals = Waiting()
    training = attempts(signals=signals)
    training.listen()
    assert not training.expired
    signals.number = 15
    training.listen()
    assert training.expired
    assert training.interrupted_by == 15
    assert not training.collapsed(0.2, epoch=5, step=25, ending=True)
    other = attempts()
    other.listen(lambda number: 2)
    assert other.interrupted_by == 2
