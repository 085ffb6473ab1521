"""The life of a task under two actors that race, forget, come late and have clocks of their own."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from support.life import Life


@pytest.mark.timeout(600)  # for hypothesis to find a short example, should it ever fail
def test_no_order_of_steps_breaks_a_task() -> None:
    """History is contiguous, ends once, and each change that was made is one of the table's."""
    run_state_machine_as_test(Life, settings=settings(max_examples=100, stateful_step_count=30, deadline=None))
