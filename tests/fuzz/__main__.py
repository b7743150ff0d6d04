"""`python -m tests.fuzz --mutants 1000000 --record FILE`: mutate, judge, keep a record; `--kind
WORD` mutates the files of that kind alone, `--only NUMBER` judges one mutant again."""

import argparse
import json
import sys
from pathlib import Path

from .engine import run


def main() -> None:
    """Parse the command line, run, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=1_000_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--only", type=int, help="judge this one again, in this process")
    parser.add_argument("--kind", default="", help="files whose kind begins so, alone: onnx")
    given = parser.parse_args()
    mutants, start = (1, given.only) if given.only is not None else (given.mutants, given.start)
    record = run(mutants, start, given.kind)
    if given.record:
        given.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({**record, "bad": record["bad"][:20]}, indent=1))
    sys.exit(bool(record["bad"]))


if __name__ == "__main__":
    main()
