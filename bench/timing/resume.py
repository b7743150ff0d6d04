"""What a record holds already: whole blocks, each of one attempt, that may be kept or must be
measured anew."""

import dataclasses
from collections import defaultdict
from dataclasses import dataclass

from ...reference.errors import PatchParityError
from ..record.record import Record
from ..record.rows import Block, Row
from ..record.schema import Outcome, Sample
from .effort import Effort


@dataclass(frozen=True)
class RecordedBlock:
    """One block of a record.

    Args:
        rows: its rows, as they were planned.
        outcomes: what became of them, by identity.
        samples: their samples, by identity, in the order of the rounds.
        complete: whether every row is there, and every measured one has all its rounds, from the
            attempt that its outcome is of.
    """

    rows: list[Row]
    outcomes: dict[str, Outcome]
    samples: dict[str, list[Sample]]
    complete: bool

    @property
    def machine(self) -> str:
        """Fingerprint of the machine that it was measured on."""
        return next(iter(self.outcomes.values())).machine

    @property
    def whole(self) -> bool:
        """Whether it is complete and no row ended in an error: there is nothing left to try."""
        return self.complete and all(
            outcome.status != "error" for outcome in self.outcomes.values()
        )

    def answers(self, planned: list[Row], effort: Effort, seed: int) -> bool:
        """Whether it may stand for a planned block: whole, of the same effort and seed, with every
        planned row.

        A row that was skipped because its framework was missing does not answer one that can be
        measured now.
        """
        recorded = {row.identity: row for row in self.rows}
        asked = dataclasses.asdict(effort), seed
        same = all((outcome.effort, outcome.seed) == asked for outcome in self.outcomes.values())
        held = all(
            row.identity in recorded and (row.skip or not recorded[row.identity].skip)
            for row in planned
        )
        return self.whole and same and held


def recorded_blocks(record: Record) -> dict[Block, RecordedBlock]:
    """Read a record's blocks; of several attempts at a block the last one that ended counts.

    Raises:
        PatchParityError: a damaged record, or one of a version that wrote other fields.
    """
    attempts: dict[Block, dict[str, dict[str, Outcome]]] = defaultdict(lambda: defaultdict(dict))
    for outcome in record.rows():
        if (identity := _row(outcome).identity) != outcome.row:
            raise PatchParityError(
                f"{record.rows_path} is damaged: the row {outcome.row!r} tells of {identity!r}"
            )
        attempts[outcome.block][outcome.attempt][outcome.row] = outcome
    samples: dict[tuple[str, str], dict[int, Sample]] = defaultdict(dict)
    for sample in record.samples():
        samples[sample.row, sample.attempt][sample.round] = sample
    return {
        key: _last_ended([_block(outcomes, samples) for outcomes in tried.values()])
        for key, tried in attempts.items()
    }


def _last_ended(blocks: list[RecordedBlock]) -> RecordedBlock:
    """The last attempt that ended; the last of all where none did."""
    return next((block for block in reversed(blocks) if block.complete), blocks[-1])


def _block(
    outcomes: dict[str, Outcome], samples: dict[tuple[str, str], dict[int, Sample]]
) -> RecordedBlock:
    kept, complete = {}, True
    for name, outcome in outcomes.items():
        rounds = samples[name, outcome.attempt]
        if outcome.status == "measured":
            kept[name] = [rounds[number] for number in sorted(rounds)]
            complete = complete and sorted(rounds) == list(range(outcome.rounds))
        complete = complete and len(outcomes) == outcome.rows_of_block
    return RecordedBlock([_row(outcome) for outcome in outcomes.values()], outcomes, kept, complete)


def _row(outcome: Outcome) -> Row:
    return Row(
        case=outcome.case,
        implementation=outcome.implementation,
        device=outcome.device,
        dtype=outcome.dtype,
        precision=outcome.precision,
        threads=outcome.threads_requested,
        operation=outcome.operation,
        role=outcome.role,
        skip=outcome.message if outcome.planned_skip else "",
        cache=outcome.cache,
        host=outcome.host,
    )
