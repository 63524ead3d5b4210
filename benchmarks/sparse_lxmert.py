"""A whole LXMERT-base with random weights under random masks, compiled, against the same computed densely by torch.

Dense is the library's own model (transformers). One thread is timed by its own processor time, several by the clock.
"""

from __future__ import annotations

import argparse
import time

import torch
from rows import median_and_spread, show_and_keep

from vltickets.backbones import build_backbone
from vltickets.data import Inputs
from vltickets.deploy import compile_sparse
from vltickets.specs import sized

WORDS, WIDTH = 1000, 2048  # the vocabulary's size costs nothing


def inputs(batch: int, words: int, objects: int) -> Inputs:
    """Return random examples, without padding."""
    random = torch.Generator().manual_seed(1)
    return Inputs(
        tokens=torch.randint(1, WORDS, (batch, words), generator=random),
        token_mask=torch.ones(batch, words, dtype=torch.bool),
        features=torch.randn(batch, objects, WIDTH, generator=random),
        boxes=torch.rand(batch, objects, 7, generator=random),
        region_mask=torch.ones(batch, objects, dtype=torch.bool),
        region_types=torch.ones(batch, objects, dtype=torch.int64),
    )


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.7, 0.8, 0.9])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--objects", type=int, default=36)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--note", default="", help="kept with the rows, such as that the machine is busy")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    dense = build_backbone(sized("lxmert-base"), vocabulary=WORDS, region_width=WIDTH, dropout=0.0).eval()
    random = torch.Generator().manual_seed(0)
    models = {}
    rows: list[dict[str, object]] = []
    with torch.inference_mode():
        ranks = {name: torch.rand(one.shape, generator=random) for name, one in dense.prunable().items()}
        for sparsity in sorted(arguments.sparsity):
            for name, one in dense.prunable().items():
                one.masked_fill_(ranks[name] < sparsity, 0)
            models[sparsity] = compile_sparse(dense, threads=arguments.threads)
        for batch in arguments.batch:
            given = inputs(batch, arguments.words, arguments.objects)
            times: dict[str, list[float]] = {}
            for turn in range(arguments.turns + 1):
                for name, model in {"dense": dense, **{str(one): model for one, model in models.items()}}.items():
                    started = clock()
                    model(given)
                    if turn:  # the first warms up
                        times.setdefault(name, []).append(clock() - started)
            for sparsity, model in models.items():
                about: dict[str, object] = {"note": arguments.note, "sparsity": sparsity, "batch": batch}
                ratio, spread = median_and_spread(
                    [other / own for other, own in zip(times["dense"], times[str(sparsity)], strict=True)]
                )
                about |= {"words": arguments.words, "objects": arguments.objects}
                about |= {"threads": arguments.threads, "turns": arguments.turns}
                about |= {"x torch fp32": round(ratio, 3), "spread": round(spread, 3)}
                about["dense ms"] = round(1e3 * median_and_spread(times["dense"])[0], 1)
                rows.append(about | {"encoder MB": round(model.encoder.nbytes / 1e6, 1)})
    show_and_keep("sparse_lxmert", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
