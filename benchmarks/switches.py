"""What is each switch of the model worth, and pairs of them? A training for each, with three seeds.

    OMP_NUM_THREADS=1 python benchmarks/switches.py --work DIR [--only NAME …] [--steps N]
    OMP_NUM_THREADS=1 python benchmarks/switches.py --work DIR --only NAME … --test
    OMP_NUM_THREADS=1 python benchmarks/switches.py --work DIR --test --weights MODEL …

The training, the people and the probes are those of pretraining_choices.py: size 4/8/256, windows
of 1.2 s of simulated people 1 to 8, but eight of them a step, so that many seeds can be had (of
4.2 s: four a step); frozen tokens are asked of people 9 to 12. Rows are added to
results/switches.csv, the states on the way to switches_curves.csv; what is there is skipped.
Several processes may share DIR. With --test people 66 to 72 are asked of the trainings in DIR, or
of models, one by one, for results/switches_test.csv.
"""
import argparse
import subprocess
from pathlib import Path

import pandas as pd
import torch
from pretraining_choices import BASE, RESULTS, append, claimed, folder_of, train, windows

from sjepa_nb.batches import montage_masks
from sjepa_nb.diagnostics import lidar, looks_at, simulated_probes
from sjepa_nb.model import SJEPA

SEEDS = 0, 1, 2
SAME = dict(batch_size=8)  # in all that do not say otherwise
LONG = dict(length=536, batch_size=4)
FIRST = dict(mask_schedule="scattered first")
GROWN = dict(steps=15_000, momentum=(.999, .9999))  # as the models that come with the package
SWITCHES = {
    "base": {},
    "target signal": dict(target="signal"),
    "target features": dict(target="features"),
    "collapse variance-covariance": dict(collapse="variance-covariance"),
    "collapse sigreg": dict(collapse="sigreg"),
    "collapse nothing": dict(collapse="nothing"),
    "registers 4": dict(registers=4),
    "condition": dict(condition=True),
    "condition, radius 0.3": dict(condition=True, radius=.3),
    "condition, radius 1.0": dict(condition=True, radius=1.),
    "base, radius 0.3": dict(radius=.3),
    "base, radius 1.0": dict(radius=1.),
    "registers 4, momentum 0.9": dict(registers=4, momentum=(.9, .9)),
    "base, momentum 0.9": dict(momentum=(.9, .9)),
    "registers 4, condition": dict(registers=4, condition=True),
    "position gradient": dict(position="gradient"),
    "scattered": dict(mask="scattered"),
    "scattered first": FIRST,
    "scattered first, condition": FIRST | dict(condition=True),
    "scattered first, registers 4": FIRST | dict(registers=4),
    "scattered first, position gradient": FIRST | dict(position="gradient"),
    "15,000 steps": GROWN,
    "15,000 steps, scattered first": GROWN | FIRST,
    "4 s": LONG,
    "4 s, norm over token": LONG | dict(norm_over="token"),
    "4 s, time": LONG | dict(mask="time", norm_over="token"),
    "4 s, future": LONG | dict(mask="future", norm_over="token"),
    "4 s, blocks": LONG | dict(mask="blocks", radius=.95, norm_over="token"),
    "4 s, regions": LONG | dict(mask="regions", norm_over="token"),
}


def commit():
    "The commit that is run."
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS, text=True,
                          capture_output=True)
    return said.stdout.strip()


def ranks(work, run, change):
    "LiDAR of windows that nobody trained on."
    s = BASE | change
    store, split = windows(work, s["length"], s["interval"], s["people"])
    draw, channels = montage_masks(store, run.model.montage)[0]   # the same for all
    x = torch.as_tensor(store.read(split["valid"][::max(1, len(split["valid"]) // 256)]))
    return dict(lidar=lidar(*looks_at(run.model.to("cpu"), x, draw, channels=channels)))


def row_of(name, seed, args, probes):
    "One training: what is written down of its end, and of the states on the way."
    change = SAME | SWITCHES[name] | dict(seed=seed, probe_steps=args.probe_steps)
    row, curve, run = train(f"{name}, seed {seed}", change, args.work, args.steps, probes)
    row.pop("probe_steps")  # changes nothing in the training
    steps = pd.read_csv(run.folder / "steps.csv")
    command = f"python benchmarks/switches.py --work DIR --steps {args.steps} --only '{name}'"
    switches = {k: getattr(run.model.config, k)
                for k in ("target", "collapse", "registers", "condition", "norm_over", "position")}
    row |= switches | ranks(args.work, run, change) | dict(
        choice=name, seed=seed, seconds_a_step=float(steps.seconds.median()),
        windows_seen=run.step * change["batch_size"], commit=commit(), command=command)
    return row, [state | dict(choice=name, seed=seed) for state in curve]


def to_test(args):
    "Name, seed and weights of what is asked of people who chose nothing."
    if args.weights: return [(f"model {Path(w).name}", 0, w) for w in args.weights]
    return [(name, seed, folder_of(args.work, f"{name}, seed {seed}") / "last.safetensors")
            for seed in args.seeds for name in args.only or SWITCHES]


def test(args):
    "Ask people who chose nothing."
    for person in range(66, 73):
        probes = simulated_probes((person,))
        for name, seed, weights in to_test(args):
            model = SJEPA.from_pretrained(weights)
            row = dict(choice=name, seed=seed, subject=person)
            for probe in probes: row |= probe(model)
            append(args.work, "switches_test.csv", [row | dict(commit=commit())])
            print(row, flush=True)


def done(name):
    "Choices and seeds that a table has already."
    path = RESULTS / name
    if not path.exists(): return set()
    table = pd.read_csv(path)
    return set(zip(table.choice, table.seed))


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--work", type=Path, required=True, help="folder of windows and runs")
    p.add_argument("--only", nargs="*", help="names of choices (default: all)")
    p.add_argument("--steps", type=int, default=5000)
    p.add_argument("--probe-steps", type=int, default=1000, help="between two looks on the way")
    p.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    p.add_argument("--test", action="store_true", help="train nothing; ask people 66 to 72")
    p.add_argument("--weights", nargs="*", help="models to test instead: names, files, folders")
    args = p.parse_args()
    unknown = set(args.only or ()) - set(SWITCHES)
    if unknown: p.error(f"no such choice: {', '.join(unknown)}")
    if args.test: return test(args)
    args.work.mkdir(parents=True, exist_ok=True)
    windows(args.work, BASE["length"], BASE["interval"])
    probes = simulated_probes((9, 10, 11, 12))
    for seed in args.seeds:
        for name in args.only or SWITCHES:
            with claimed(args.work, f"{name}, seed {seed}") as mine:
                if not mine or (name, seed) in done("switches.csv"): continue
                row, curve = row_of(name, seed, args, probes)
                append(args.work, "switches.csv", [row])
                append(args.work, "switches_curves.csv", curve)
                print({k: row[k] for k in ("choice", "seed", "loss", "seconds")}, flush=True)


if __name__ == "__main__": main()
