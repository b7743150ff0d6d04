"""Small records for tests: what is measured, and what is looked at."""

SMALL = dict(cases=("vit-ti32-224-b2",), implementations=("numpy:linear", "numpy:conv2d"), threads=(1,), rounds=4)


def copied_record(report, folder) -> None:
    for name in ("samples.jsonl", "rows.jsonl"):
        (folder / name).write_text((report.folder / name).read_text())


def data_of(content) -> dict[str, list[float]]:
    return {entry["params"]["identity"]: entry["stats"]["data"] for entry in content["benchmarks"]}
