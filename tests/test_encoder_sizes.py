"""The table of what a port takes is made of its record."""

import json

from .encoder_sizes import PAGE, RECORD, ROWS, page


def test_the_table_is_that_of_the_record():
    text = PAGE.read_text(encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert page(text, record) == text
    assert set(record["ratios"]) == set(ROWS)
