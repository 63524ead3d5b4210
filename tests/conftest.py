"""What all rooms' tests share: a small world on disk, models of a toy size, and the public samples where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from vltickets.backbones import build_backbone
from vltickets.data import Source, open_folder
from vltickets.scenes import write_captions, write_nlvr2, write_vocabulary, write_vqa
from vltickets.specs import Fresh, Matching, Nlvr2, Pretraining, Recipe, TaskSpec, Train, Uniter, Vqa, World
from vltickets.store import Store
from vltickets.tasks import Model, Task, build_task
from vltickets.tickets import initialise

# Seeded, and without a clock: a busy machine is no failure.
settings.register_profile(
    "vltickets", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("vltickets")

SHARED = Path(__file__).resolve().parents[2] / "shared"
DATA = World(generator=1)
TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
TASKS: dict[str, TaskSpec] = {
    "vqa": Vqa(data=DATA),
    "nlvr2": Nlvr2(data=DATA),
    "matching": Matching(data=DATA, candidates=8),
    "pretraining": Pretraining(data=DATA, foils=0.5),
}
Build = Callable[..., tuple[Model, Task]]
LONGEST_FIRST = ("test_pretraining.py", "test_crash.py", "test_torture.py", "test_ray.py", "test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that take minutes first, so that the others fill the time of the second worker."""
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else 9)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Give each test one thread: bits depend on their number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the public samples are not here: {SHARED} is missing")
    return SHARED


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the official layout: 60 training scenes and 40 to test on."""
    folder = tmp_path_factory.mktemp("small-world")
    write_vocabulary(folder)
    for split, count in (("train", 60), ("test", 40)):
        write_captions(folder, split, seed=1, scenes=count)
        write_vqa(folder, split, seed=1, questions=2 * count)
        write_nlvr2(folder, split, seed=1, examples=2 * count)
    return folder


@pytest.fixture(scope="session")
def source(small_world: Path) -> Source:
    return open_folder(small_world)


@pytest.fixture(scope="session")
def task_of(source: Source) -> Callable[[str], Task]:
    tasks = {name: build_task(spec, source, TOY) for name, spec in TASKS.items()}
    return tasks.__getitem__


@pytest.fixture
def build(task_of: Callable[[str], Task], source: Source, tmp_path: Path) -> Build:
    """A toy model on a task, with fresh weights θ₀ of its own and the fresh head of `seed`."""

    def make(name: str = "vqa", *, seed: int = 0, dropout: float = 0.1) -> tuple[Model, Task]:
        task = task_of(name)
        backbone = build_backbone(
            TOY,
            vocabulary=len(source.vocabulary),
            region_width=task.region_width(),
            dropout=dropout,
            type_count=len(task.type_rows),
        )
        model = Model(backbone, task.head(TOY.hidden, dropout))
        recipe = Recipe(steps=1, learning_rate=0.1)
        node = Train(backbone=TOY, task=TASKS[name], start=Fresh(), recipe=recipe, seed=seed)
        initialise(model, task, node, Store(tmp_path / "no-store"))
        return model, task

    return make
