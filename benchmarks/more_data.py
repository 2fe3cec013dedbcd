"""Do more people make a better encoder, and which of the two: the local or the contextual one?

    OMP_NUM_THREADS=1 python benchmarks/more_data.py --work DIR [--people 2 8 36 144]

The base of switches.py (size 4/8/256, about 5,000 steps of eight windows of 1.19 s), trained on the
simulated people 1 to N of population 1: as many windows seen, of more or of fewer people. Of 144
people every fourth window is taken, as many as of 36. Frozen tokens of people 9 to 12 of population
0 are asked on the way and at the end. Rows go to results/more_data.csv; those there are skipped.
"""
import argparse
from pathlib import Path

import pandas as pd
from pretraining_choices import RESULTS, append, train

from sjepa_nb.diagnostics import simulated_probes
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import build_store, split_by_subject

VALID = 201, 202, 203, 204  # of population 1
INTERVAL = {144: 5.2}  # seconds between windows, where not BASE's


def windows(work, length, interval, people):
    "The windows of so many people and of those who validate, built once."
    everybody = [*range(1, people + 1), *VALID]
    sets = simulated_datasets(VALID[-1], seed=1)
    sources = [s for d in sets for s in moabb_sources(d, everybody)]
    store = build_store(work / f"windows-of-{people}-people", sources, length=length,
                        interval=INTERVAL.get(people, interval), progress=False)
    return store, split_by_subject(store.index, valid=VALID)


def done():
    "People and seeds that the table has already."
    path = RESULTS / "more_data.csv"
    if not path.exists(): return set()
    table = pd.read_csv(path)
    return set(zip(table.people, table.seed))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows and runs")
    p.add_argument("--people", type=int, nargs="*", default=[2, 8, 36, 144])
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    probes = simulated_probes((9, 10, 11, 12))
    for seed in args.seeds:
        for people in args.people:
            if (people, seed) in done(): continue
            change = dict(people=people, batch_size=8, seed=seed)
            name = f"{people} people, seed {seed}"
            _, curve, run = train(name, change, args.work, args.steps, probes, windows)
            about = dict(people=people, seed=seed, windows=len(run.split["train"]))
            rows = [about | row | dict(seen=row["step"] * 8) for row in curve]
            append(args.work, "more_data.csv", rows)
            print(rows[-1], flush=True)


if __name__ == "__main__": main()
