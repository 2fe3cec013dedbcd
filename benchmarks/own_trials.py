"""Pre-training on the unlabelled trials of the very person who is asked: what is it worth?

    OMP_NUM_THREADS=1 python benchmarks/own_trials.py --work DIR --part development
    OMP_NUM_THREADS=1 python benchmarks/own_trials.py --work DIR --part test

One person's recordings, cut without labels into windows of 1.19 s, are trained on for a thousand
steps of eight: from random weights, and from the model that comes with the package. Frozen tokens
are asked before and after, by the probes of the page on diagnostics (100 trials of imagery, 600
flashes, 100 of flicker; their signals are in the training, their labels are not). Simulated people
9 and 10 chose the learning rate, 66 to 72 are asked once. Rows go to results/own_trials.csv; those
there are skipped.
"""
import argparse
from pathlib import Path

import pandas as pd
import torch
from pretraining_choices import BASE, about, append, scores_of

from sjepa_nb.diagnostics import simulated_probes
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import build_store, split_in_time

RESULTS = Path(__file__).resolve().parent.parent / "results" / "own_trials.csv"
PEOPLE = dict(development=(9, 10), test=(66, 67, 68, 69, 70, 71, 72))
TRIALS = 100, 600, 100
RANDOM = ("random", None), ("random", 5e-4)
WAYS = dict(development=(*RANDOM, ("simulated", None), ("simulated", 5e-4), ("simulated", 1e-4)),
            test=(*RANDOM, ("simulated", None), ("simulated", 5e-4)))


def windows(work, person):
    "The person's recordings in all three paradigms, without labels."
    sets = simulated_datasets(person, n_trials=TRIALS, test_run=False)
    sources = [s for d in sets for s in moabb_sources(d, [person])]
    return build_store(work / f"windows-{person}", sources, length=BASE["length"],
                       interval=BASE["interval"], progress=False)


def model_of(start, person, store):
    "The weights to begin from."
    if start != "random": return SJEPA.from_pretrained(start)
    torch.manual_seed(person)
    return SJEPA(store.montage, SJEPAConfig.preset(BASE["size"]))


def trained(model, rate, args, person, start, store):
    "The weights after the training."
    config = TrainingConfig(steps=args.steps, batch_size=8, learning_rate=rate, patience=10_000,
                            momentum=(.99, .9995), seed=person)
    folder = args.work / f"{start}-{rate:g}-{person}"
    resume = (folder / "checkpoint.pt").exists()
    run = Pretraining(store, split_in_time(store.index, store.length), folder, config,
                      resume=resume, progress=False, weights=model)
    run.run()
    return run.model


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows and runs")
    p.add_argument("--part", choices=PEOPLE, required=True)
    p.add_argument("--steps", type=int, default=1000)
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    there = pd.read_csv(RESULTS) if RESULTS.exists() else pd.DataFrame(columns=["subject"])
    for person in PEOPLE[args.part]:
        probes, store = simulated_probes((person,), TRIALS), windows(args.work, person)
        for start, rate in WAYS[args.part]:
            mine = there[there.subject == person]
            if len(mine) and ((mine.start == start) & (mine.rate == (rate or 0))).any(): continue
            model = model_of(start, person, store)
            if rate: model = trained(model, rate, args, person, start, store)
            row = dict(part=args.part, subject=person, start=start, rate=rate or 0,
                       steps=args.steps if rate else 0, windows=len(store))
            append(args.work, RESULTS.name, [row | scores_of(model, probes) | about()])
            print(row, flush=True)


if __name__ == "__main__": main()
