"""The result of a comparison, as values: scores per run, standings per contender, the whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from jorge_tune.compare.run_directories import Contender
from jorge_tune.compare.statistics import Spread, spread


@dataclass(frozen=True)
class TargetLine:
    """The value a race is measured against, and where it comes from, in words."""

    value: float
    origin: str


@dataclass(frozen=True)
class RaceScore:
    """One run, measured. Misses are infinite; unread `best` and `final` are the worst there is."""

    seed: int
    diverged: bool
    epochs_to_target: float
    seconds_to_target: float
    train_seconds: float
    best: float
    final: float
    test: float | None


@dataclass(frozen=True)
class Tally:
    """How many pairs are won, level and lost in one quantity.

    `p` is that of the exact signed-rank test, if there are pairs enough; `p_corrected` by Holm over the contests of
    the comparison in this quantity. `leaning` is 1 where the test's ranks speak for the contender, -1 against it.
    """

    wins: int
    ties: int
    losses: int
    p: float | None = None
    p_corrected: float | None = None
    leaning: int = 0


@dataclass(frozen=True)
class PairedContest:
    """A contender against another on the seeds they share; ratios below 1 and positive gains speak for it.

    Ratios and the gain are medians over the pairs; a pair in which both missed has no ratio, and there is none where
    as many pairs are won by a miss as lost by one.
    """

    pairs: int
    epochs: Tally
    seconds: Tally
    final: Tally
    epoch_ratio: float | None
    second_ratio: float | None
    final_gain: float


@dataclass(frozen=True)
class Standing:
    """One contender's row: its scores by seed, what was left out, and how it stands against the first."""

    contender: Contender
    scores: tuple[RaceScore, ...]
    left_out: tuple[str, ...]
    against_first: PairedContest | None = None
    mean_rank: float | None = None

    @property
    def name(self) -> str:
        """The contender's name."""
        return self.contender.name

    @property
    def diverged(self) -> int:
        """How many of the runs diverged."""
        return sum(score.diverged for score in self.scores)

    def spread_of(self, field: str) -> Spread | None:
        """Median and range of one field of the scores; None where no run has it."""
        values: Iterable[float | None] = (getattr(score, field) for score in self.scores)
        return spread([value for value in values if value is not None])


@dataclass(frozen=True)
class OptimizerApart:
    """A Jorge contender against its control (what it grafts from, its schedule, decoupled decay), by their names."""

    jorge: str
    control: str
    paired: PairedContest


@dataclass(frozen=True)
class Comparison:
    """Everything a table, a picture and a verdict need."""

    metric: str
    lower_is_better: bool
    part: str
    target: TargetLine
    standings: tuple[Standing, ...]
    notes: tuple[str, ...]
    apart: tuple[OptimizerApart, ...] = ()
    is_side_by_side: bool = False
    """Whether runs shared a machine while they trained."""

    @property
    def devices(self) -> list[str]:
        """The devices that runs were measured on, in order of their names; one that is not known counts as one."""
        return sorted(
            {
                run.device or "an unknown device"
                for standing in self.standings
                for run in standing.contender.runs
                if run.seed in {score.seed for score in standing.scores}
            }
        )

    @property
    def compares_seconds(self) -> bool:
        """Whether the runs trained alone, and on one device: else their seconds are not to be compared."""
        return not self.is_side_by_side and len(self.devices) < 2

    def to_json(self) -> dict[str, object]:
        """Plain data. Infinite epochs and seconds are misses, an infinite final value is a diverged run's."""
        return {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "part": self.part,
            "target": asdict(self.target),
            "contenders": [_standing_to_json(standing) for standing in self.standings],
            "optimizer_apart": [asdict(one) for one in self.apart],
            "notes": list(self.notes),
            "is_side_by_side": self.is_side_by_side,
        }


_SUMMARISED = ("epochs_to_target", "seconds_to_target", "train_seconds", "best", "final", "test")


def _standing_to_json(standing: Standing) -> dict[str, object]:
    spreads = {field: standing.spread_of(field) for field in _SUMMARISED}
    return {
        "name": standing.name,
        "optimizer": standing.contender.recipe.optimizer.name,
        "folders": [str(run.folder) for run in standing.contender.runs],
        "runs": len(standing.scores),
        "diverged": standing.diverged,
        "left_out": list(standing.left_out),
        **{field: None if found is None else asdict(found) for field, found in spreads.items()},
        "against_first": None if standing.against_first is None else asdict(standing.against_first),
        "mean_rank": standing.mean_rank,
        "scores": [asdict(score) for score in standing.scores],
    }
