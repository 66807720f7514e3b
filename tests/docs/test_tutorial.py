"""The tutorials work as they are printed."""

import time
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


def test_a_strangers_table_within_a_minute(
    blocks: Callable[[str], list[Any]], write: Callable[[Any], None], run: Callable[[Any], None]
) -> None:
    began = time.process_time()
    found = blocks("tutorial-fit.md")
    shown = [command for block in found if "test" in block.marks for command, _ in block.commands()]
    assert {command.split()[1] for command in shown} == {"fit", "import", "recommend", "report"}
    for block in found:
        if block.file:
            write(block)
        elif "test" in block.marks:
            run(block)
    assert time.process_time() - began < 60, "seconds of this process; the reader's ten minutes are for reading"


@pytest.mark.slow
def test_the_commands_of_a_campaign(
    blocks: Callable[[str], list[Any]], tiny_campaign: None, run: Callable[[Any], None]
) -> None:
    found = [block for block in blocks(PAGE) if "campaign" in block.marks]
    assert len(found) >= 3
    for block in found:
        run(block)
