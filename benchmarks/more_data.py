"""Would more data help, more people or more windows of them, and which of the two encoders?

    OMP_NUM_THREADS=1 python benchmarks/more_data.py --work DIR [--only NAME …] [--seeds 0 1]

Networks of size 4/8/256 are trained for the same number of steps, 32 windows of 1.19 s each, on 2,
8, 40 and 160 simulated people of population 1; on 40 with no more windows than 2 have, and on 2
with an eighth of theirs. All validate on the same four. Frozen tokens are asked of people 9 to 12
of population 0. Rows go to results/more_data.csv; those there are skipped. Several processes may
share DIR.
"""
import argparse
from pathlib import Path

import numpy as np
from pretraining_choices import BASE, about, append, claimed, folder_of, read
from switches import commit, done

from sjepa_nb.diagnostics import simulated_probes
from sjepa_nb.model import SJEPAConfig
from sjepa_nb.pretraining import Pretraining, TrainingConfig
from sjepa_nb.simulation import simulated_datasets
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import build_store, split_by_subject

VALID = 161, 162, 163, 164
CHOICES = {  # name → people, and the share of their windows
    "2 people": (2, 1),
    "8 people": (8, 1),
    "40 people": (40, 1),
    "160 people": (160, 1),
    "40 people, a twentieth of their windows": (40, 1 / 20),
    "2 people, an eighth of their windows": (2, 1 / 8),
}


def windows(work):
    "The windows of all people, built once."
    sets = simulated_datasets(n_subjects=max(VALID), seed=1)
    sources = [s for d in sets for s in moabb_sources(d)]
    return build_store(work / "windows", sources, BASE["length"], BASE["interval"],
                       progress=False)


def part(store, people, share, seed):
    "Which windows train: so many of the first people's, repeated until an epoch is that of all."
    split = split_by_subject(store.index, valid=[str(v) for v in VALID])
    subject = store.index.subject.to_numpy()[split["train"]].astype(int)
    chosen = split["train"][subject <= people]
    few = np.random.default_rng(seed).choice(chosen, round(share * len(chosen)), replace=False)
    chosen = np.repeat(np.sort(few), round(1 / share))
    return dict(split, train=chosen, valid=split["valid"][::4])  # each takes a pass an epoch


def row_of(name, seed, args, probes):
    "One training, and what it is worth."
    store = windows(args.work)
    split = part(store, *CHOICES[name], seed)
    folder = folder_of(args.work, f"{name}, seed {seed}")
    resume = (folder / "checkpoint.pt").exists()
    config = TrainingConfig(steps=args.steps, seed=seed, patience=10_000, probe_steps=args.steps)
    run = Pretraining(store, split, folder, config, SJEPAConfig.preset(BASE["size"]), probes,
                      resume, progress=False)
    run.run()
    last, _ = read(folder, name)
    return dict(choice=name, people=CHOICES[name][0], windows=len(set(split["train"])), seed=seed,
                steps=run.step, windows_seen=run.step * config.batch_size) | last | dict(
                commit=commit()) | about()


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows and runs")
    p.add_argument("--only", nargs="*", choices=CHOICES, help="names of choices (default: all)")
    p.add_argument("--seeds", type=int, nargs="*", default=[0])
    p.add_argument("--steps", type=int, default=5000)
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    probes = simulated_probes((9, 10, 11, 12))
    for seed in args.seeds:
        for name in args.only or CHOICES:
            with claimed(args.work, f"{name}, seed {seed}") as mine:
                if not mine or (name, seed) in done("more_data.csv"): continue
                row = row_of(name, seed, args, probes)
                append(args.work, "more_data.csv", [row])
                print({k: row[k] for k in ("choice", "seed", "loss", "windows")}, flush=True)


if __name__ == "__main__": main()
