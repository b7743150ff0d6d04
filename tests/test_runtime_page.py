"""The page of runtimes is that of its record, and the record holds what it says."""

from patchparity.bench.check.results import CheckReport

from . import runtime_tables


def test_the_page_is_the_record():
    assert runtime_tables.PAGE.read_text() == runtime_tables.page(runtime_tables.kept())


def test_the_records_hold_twelve_backends_and_nothing_that_is_wrong():
    reports = runtime_tables.kept()
    assert all(isinstance(report, CheckReport) and report.ok for report in reports)
    ran = [
        {row.backend for row in report.results if row.verdict in ("pass", "known")}
        for report in reports
    ]
    assert len(ran[0]) >= 12
    assert not set.intersection(*ran)
