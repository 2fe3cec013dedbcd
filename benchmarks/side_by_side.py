"""What is fastest for several small trainings of the same shape: one after another, side by side in
one process (`torch.func`), or in processes of one thread each?

    python benchmarks/side_by_side.py

Folds of fine-tuning (pre-local head, everything trained, noise in the shape of a second and of
four) and pre-trainings (size 4/8/256, 32 windows of a second). Each way makes the same steps from
the same weights; `difference` is the largest from one after another, of what the folds' networks
say of their trials (a bias that the norm cancels wanders), and of all weights of a pre-training.
Rows go to results/side_by_side.csv.
"""
import argparse
import copy
import os
import time
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from sjepa_nb.contextual_encoder import set_precision
from sjepa_nb.heads import Downstream
from sjepa_nb.masking import SphereMask
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.pretraining import TrainingConfig, keep_memory, make_optimiser, train_step

RESULTS = Path(__file__).resolve().parent.parent / "results" / "side_by_side.csv"
RATE = 1e-3


def fold(k, samples):
    "Network and trials of one fold."
    torch.manual_seed(k)
    net = Downstream("pre-local", 2, samples, 62).train()
    return net, 10 * torch.randn(32, 62, samples), torch.arange(32) % 2


def train_fold(k, samples, steps, threads):
    "What the network of one fold says of its trials after some steps."
    torch.set_num_threads(threads)
    net, x, y = fold(k, samples)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(net(x), y).backward()
        optimiser.step()
    return net(x).detach()


def train_folds_at_once(samples, steps, threads, n):
    "The same for all folds, by one gradient of the stacked networks."
    torch.set_num_threads(threads)
    nets, xs, ys = zip(*(fold(k, samples) for k in range(n)))
    weights, buffers = stack_module_state(nets)
    xs, ys, empty = torch.stack(xs), torch.stack(ys), copy.deepcopy(nets[0])
    def scores(weights, buffers, x): return functional_call(empty, (weights, buffers), (x,))
    def loss(weights, buffers, x, y): return cross_entropy(scores(weights, buffers, x), y)
    gradient = vmap(grad(loss))
    optimiser = torch.optim.AdamW(weights.values(), RATE, weight_decay=0.)
    for _ in range(steps):
        for name, g in gradient(weights, buffers, xs, ys).items(): weights[name].grad = g
        optimiser.step()
    return [*vmap(scores)(weights, buffers, xs).detach()]


def pretrain(k, samples, steps, threads):
    "All trained weights after some steps of one pre-training."
    torch.set_num_threads(threads)
    torch.manual_seed(k)
    keep_memory()
    montage = lee2019_montage()
    model, config = SJEPA(montage, SJEPAConfig.preset("4/8/256")).train(), TrainingConfig()
    set_precision(model, "auto", "cpu")
    optimiser, draw = make_optimiser(model, config), SphereMask(montage)
    x, order = 10 * torch.randn(32, 62, samples), torch.Generator().manual_seed(k)
    for step in range(steps):
        masks = draw(32, order)
        train_step(model, optimiser, x, masks, torch.arange(62), step, 10**6, config)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def timed(call):
    "What a call gives, and its seconds."
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def compare(what, train, n, steps, samples, threads, at_once=None):
    "A row for each way."
    settings = samples, steps
    each = [delayed(train)(k, *settings, 1) for k in range(n)]
    train(0, samples, 1, threads)  # what is done once, before the clock runs
    Parallel(threads)(delayed(train)(k, samples, 1, 1) for k in range(n))
    ways = {"one after another": lambda: [train(k, *settings, threads) for k in range(n)],
            "processes": lambda: Parallel(threads)(each)}
    if at_once: ways["torch.func"] = lambda: at_once(*settings, threads, n)
    rows = []
    for way, call in ways.items():
        weights, seconds = timed(call)
        first = weights if not rows else first
        apart = max(float((a - b).abs().max()) for a, b in zip(first, weights))
        rows.append(dict(what=what, way=way, samples=samples, trainings=n, steps=steps,
                         seconds=round(seconds, 2), difference=apart, threads=threads,
                         torch=torch.__version__))
        print(rows[-1], flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=min(2, os.cpu_count()), help="cores to use")
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    table = []
    for _ in range(a.rounds):
        for samples in (152, 536):
            table += compare("folds", train_fold, 4, 40, samples, a.threads, train_folds_at_once)
        table += compare("pre-trainings", pretrain, 2, 40, 152, a.threads)
    pd.DataFrame(table).to_csv(a.out, index=False)


if __name__ == "__main__": main()
