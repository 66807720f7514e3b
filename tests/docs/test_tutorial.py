"""The tutorial works as it is printed."""

from collections.abc import Callable
from typing import Any

import pytest

PAGE = "tutorial.md"


def test_the_commands_that_train_nothing(
    blocks: Callable[[str], list[Any]], write: Callable[[Any], None], run: Callable[[Any], None]
) -> None:
    found = blocks(PAGE)
    assert sum("test" in block.marks for block in found) >= 4
    for block in found:
        if block.file:
            write(block)
        elif "test" in block.marks:
            run(block)


@pytest.mark.slow
def test_the_commands_of_a_campaign(
    blocks: Callable[[str], list[Any]], tiny_campaign: None, run: Callable[[Any], None]
) -> None:
    found = [block for block in blocks(PAGE) if "campaign" in block.marks]
    assert len(found) >= 3
    for block in found:
        run(block)
