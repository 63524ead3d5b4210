"""Running what a command asks for: plan, forecast, run, and again as long as what was found asks for more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from vltickets.cli.console import duration, following, screen, typed
from vltickets.cli.reporting import show, show_paper
from vltickets.errors import UserError
from vltickets.specs import Train
from vltickets.store import Store
from vltickets.studies.config import Study
from vltickets.studies.executors import RayCluster, StudyFailed
from vltickets.studies.graph import steps_of
from vltickets.studies.loading import load_studies
from vltickets.studies.paper_config import Paper
from vltickets.studies.whole import Whole, chosen

if TYPE_CHECKING:
    from vltickets.studies.forecast import Forecast
    from vltickets.studies.run import Planned


@dataclass(frozen=True)
class Asked:
    """What a command names: studies, the name they are told under, and what of them is to be run.

    `only` names artefacts of the paper, and no other is run; `weights_of` a cell whose weights are wanted too.
    """

    called: str
    studies: Mapping[str, Study | Paper]
    whole: Whole | None = None
    only: frozenset[str] = frozenset()
    weights_of: tuple[str, float, int] | None = None


def asked_for(name: str, preset: str | None, settings: list[str] | None, called: str | None, only: str | None) -> Asked:
    """Return what a command's arguments name; what does not fit together is a `UserError`."""
    if preset is not None and name != "paper":
        raise UserError(f"--preset is of the whole paper: vltickets study run paper --preset {preset}")
    name = f"whole-{preset or 'tiny'}" if name == "paper" else name
    whole, studies = load_studies(name, tuple(settings or ()))
    if called is not None and whole is None:
        studies = dict.fromkeys([called], next(iter(studies.values())))
    elif called is not None:  # its parts too: another study of theirs may be in the store under the usual names
        studies = {f"{called}-{part}": study for part, study in studies.items()}
    artefacts = chosen(only) if only is not None else frozenset()
    known = {one for study in studies.values() if isinstance(study, Paper) for one in study.artefacts}
    if artefacts and not known:
        raise UserError(f"--only chooses among the paper's tables and figures, and {name} is a study of one ticket")
    if odd := sorted(artefacts - known):
        raise UserError(f"--only: {name} has no {odd[0]}; it has {', '.join(sorted(known))}")
    return Asked(called or Path(name).stem, studies, whole, artefacts)


@dataclass
class Sitting:
    """One call of `study run` or `demo`: what it runs, where, and what was foreseen of it."""

    asked: Asked
    store: Store
    data: Path | None
    workers: int
    cluster: RayCluster | None
    track: str | None
    console: Console
    foreseen: list[Forecast] = field(default_factory=list)
    failure: StudyFailed | None = None

    def run(self) -> None:
        """Run all that is left, and what follows from it: Table 1's baselines wait for the tickets' sparsities."""
        known = -1
        while True:
            plans = self._plans()
            cells = sum(len(planned.cells) for planned in plans)
            if cells == known:
                return
            known = cells
            self._run(plans)
            if not any(isinstance(study, Paper) for study in self.asked.studies.values()):
                return

    def _plans(self) -> list[Planned]:
        from vltickets.studies.run import plan_study

        asked = self.asked
        return [
            plan_study(name, study, self.store, self.data, weights_of=asked.weights_of, only=asked.only)
            for name, study in asked.studies.items()
        ]

    def _run(self, plans: Sequence[Planned]) -> None:
        from vltickets.studies.run import note_whole, run_studies
        from vltickets.studies.tracking import tracking

        asked, store, command = self.asked, self.store, typed()
        if asked.whole is not None:
            note_whole(asked.called, asked.whole, plans, store, command=command)
        place = "on Ray" if self.cluster else f"{self.workers or 'no'} worker processes"
        foreseen = self._foresee(plans)
        self.console.print(f"{_to_do(plans, foreseen)}, {place}; store: {store.root}", soft_wrap=True)
        if foreseen.left and not foreseen.unknown and self.cluster is None:
            self.console.print(f"expected to take {duration(foreseen.wall)}", soft_wrap=True)
        self.failure = None
        try:
            with following(plans, self.console) as listen:
                heard = listen if self.track is None else tracking(self.track, list(asked.studies), store, listen)
                run_studies(plans, store, workers=self.workers, listen=heard, command=command, cluster=self.cluster)
        except StudyFailed as error:  # all else is done and shown
            self.failure = error

    def _foresee(self, plans: Sequence[Planned]) -> Forecast:
        from vltickets.studies.outcome import keep_forecast
        from vltickets.studies.planning import expected

        self.foreseen.append(expected(plans, self.store, self.workers, self.asked.only))
        keep_forecast(self.asked.called, self.foreseen[-1], self.store)
        return self.foreseen[-1]


def run_asked(
    asked: Asked,
    store: Store,
    data: Path | None,
    where: tuple[int, RayCluster | None],
    as_json: bool,
    *,
    page: Path,
    track: str | None = None,
) -> None:
    """Run what is asked for, write its page, and show what was found. Raises what failed, after all else is shown."""
    from vltickets.studies.tracking import check_tracker

    if track is not None:
        check_tracker(track)
    started = time.perf_counter()
    console = screen(to_stderr=as_json)
    for told in [asked.whole] if asked.whole is not None else asked.studies.values():
        console.print(f"{told.title}\n{told.note}".strip(), soft_wrap=True)
    sitting = Sitting(asked, store, data, *where, track, console)
    sitting.run()
    took = time.perf_counter() - started
    state = f"{'not whole after' if sitting.failure else 'done in'} {duration(took)}"
    against = _against(asked.called, store, sitting.foreseen, took if sitting.cluster is None else None)
    _finish(asked.called, store, page, as_json, state + against)
    if sitting.failure is not None:
        raise sitting.failure


def _to_do(plans: Sequence[Planned], foreseen: Forecast) -> str:
    from vltickets.studies.run import merged

    work = merged(plans)
    steps = sum(steps_of(item.node) for item in work if isinstance(item.node, Train))
    apart = f" ({foreseen.runs / foreseen.apart:.0%} of the {foreseen.apart} it would be if none were shared)"
    shared = apart if foreseen.apart > foreseen.runs else ""
    cells = sum(len(planned.cells) for planned in plans)
    return f"{cells} cells; {foreseen.runs} runs{shared}, {len(work)} to do ({steps} steps)"


def _finish(name: str, store: Store, page: Path, as_json: bool, state: str) -> None:
    """Write the page, and show what was found."""
    from vltickets import reports

    last_line = f"{state}; page: {page}"
    if store.study(name)["study"] in ("paper", "whole"):
        parts = reports.read_papers(store, name)
        reports.write_paper_page(parts, page)
        notes = [f"Note: {sentence}" for sentence in reports.diverged_cells(store, store.study(name)["cells"])]
        show_paper(parts, as_json, "\n".join([*notes, last_line]))
        return
    results = reports.read_results(store, name)
    reports.write_page(results, page)
    show(results, as_json, last_line)


def _against(name: str, store: Store, foreseen: Sequence[Forecast], took: float | None) -> str:
    """Return how this sitting and all its study's runs compare with what was planned, where it was.

    A sitting on a cluster, whose workers are not counted here, gives no time that it `took`.
    """
    from vltickets.studies.outcome import compared, total

    whole = total(compared(name, store))
    if not whole.runs or not any(one.left for one in foreseen):
        return ""
    wall = sum(one.wall for one in foreseen)
    known = not any(one.unknown for one in foreseen)
    planned = f" (planned {duration(wall)}, {wall / took - 1:+.0%})" if took and known else ""
    return f"{planned}; {whole.runs} runs planned {duration(whole.planned)}, took {duration(whole.actual)}"
