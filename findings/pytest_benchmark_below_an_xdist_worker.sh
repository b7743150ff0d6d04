#!/usr/bin/env bash
# A benchmark that a test starts as a process of its own times nothing where that test runs in one of pytest-xdist's workers: pytest-benchmark looks at a
# variable that the worker leaves in the environment, not at whether xdist is there. The run passes, and writes a JSON file without benchmarks.
#
# Guess beforehand: pytest-benchmark is off where xdist distributes; a child pytest without xdist (plugin autoload off, pytest-benchmark alone asked for) is a
# session like any other.
# Seen: the same command gives one benchmark by itself, and none with PYTEST_XDIST_WORKER in its environment; the exit status is 0 in both.
# Versions: pytest 9.2.0, pytest-benchmark 5.3.1, Python 3.11; pytest-xdist is not even installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pytest==9.2.0" "pytest-benchmark==5.3.1"
cd "$folder"
cat > test_sum.py <<'TEST'
def test_sum(benchmark):
    benchmark(sum, range(100))
TEST
count() {
    "$folder/venv/bin/python" -m pytest -q -p pytest_benchmark.plugin --benchmark-json="$1.json" test_sum.py > "$1.log" 2>&1 || cat "$1.log" >&2
    "$folder/venv/bin/python" -c 'import json, os, sys
path = sys.argv[1] + ".json"
held = open(path).read() if os.path.exists(path) else ""
print(len(json.loads(held)["benchmarks"]) if held else 0)' "$1"
}
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
alone=$(count alone)
below=$(PYTEST_XDIST_WORKER=gw0 count below)
echo "benchmarks by itself: $alone, with PYTEST_XDIST_WORKER set: $below (exit 0 in both)"
grep -i xdist below.log || true
test "$alone" = 1
test "$below" = 0
echo "as found: one variable, and nothing is timed"
