"""What do fine-tuning, and the features of long recordings, cost beside the peer's? The peer: braindecode's `SignalJEPA` and its three heads, trained in the usual loop, as they come (dropout 0.1 in the transformer) and without dropout.

    python benchmarks/downstream_cost.py

Noise in microvolts, 62 channels, random weights. Every contender runs in a process of its own, in turn, round after round. Rows go to results/downstream_cost.csv.
"""
import argparse
import itertools
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pretraining_step import ROOT, chs_info, without_dropout  # also finds the stub that braindecode needs
from sjepa_nb.montage import lee2019_montage

RESULTS = ROOT / "results" / "downstream_cost.csv"
TRIALS, SAMPLES = 100, 536  # of fine-tuning: Lee2019's training run of motor imagery
HOURS = ((2072, 5), (2072, 15), (2072, 60), (536, 15), (152, 15))  # samples of a window, minutes


def noise(n, samples): return np.random.default_rng(0).standard_normal((n, 62, samples), dtype=np.float32) * 10


def ours_tuned(head, strategy, epochs, device):
    "Seconds of every epoch; the first one computes the features."
    from sjepa_nb import finetuning
    begun, real = [], finetuning.train_epoch
    def watched(*a):
        begun.append(time.perf_counter())
        return real(*a)
    finetuning.train_epoch = watched
    x, y, start = noise(TRIALS, SAMPLES), np.arange(TRIALS) % 2, time.perf_counter()
    finetuning.SJEPAClassifier(head=head, strategy=strategy, channels=lee2019_montage(), reference=None, epochs=epochs, patience=10**6, warmup_epochs=1, device=device).fit(x, y)
    return np.diff([start, *begun[1:], time.perf_counter()])


def peer_tuned(head, strategy, epochs, device, dropout=None):
    "The same with braindecode's network: the frozen part is frozen, and computed in every epoch."
    import torchaudio_stub  # noqa: F401
    from braindecode import models
    from sjepa_nb.finetuning import split_validation
    net = getattr(models, {"contextual": "SignalJEPA_Contextual", "post-local": "SignalJEPA_PostLocal", "pre-local": "SignalJEPA_PreLocal"}[head])(n_outputs=2, chs_info=chs_info(lee2019_montage()), n_times=SAMPLES, sfreq=128).to(device)
    if dropout == 0: without_dropout(net)
    new = [p for n, p in net.named_parameters() if n.startswith(("spatial_conv", "final_layer"))]
    assert 0 < len(new) < len(list(net.parameters()))
    x, y = torch.from_numpy(noise(TRIALS, SAMPLES)).to(device), torch.arange(TRIALS, device=device) % 2
    train, valid = (torch.as_tensor(i) for i in split_validation(y.cpu().numpy()))
    took, loss_of = [], torch.nn.functional.cross_entropy
    for epoch in range(epochs):
        t = time.perf_counter()
        if epoch < 2: # the new layers alone, then, where that is the strategy, all
            for p in net.parameters(): p.requires_grad_(strategy == "full" and epoch == 1)
            for p in new: p.requires_grad_(True)
            optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-3)
        net.train()
        for rows in train[torch.randperm(len(train))].split(32):
            loss = loss_of(net(x[rows]), y[rows])
            optimiser.zero_grad(); loss.backward(); optimiser.step()
        net.eval()
        with torch.no_grad(): float(loss_of(net(x[valid]), y[valid]))
        took.append(time.perf_counter() - t)
    return took


def ours_transformed(samples, minutes, device):
    from sjepa_nb.finetuning import SJEPAFeatures
    x = noise(minutes * 60 * 128 // samples, samples)
    features, t = SJEPAFeatures(channels=lee2019_montage(), reference=None, device=device).fit(x[:1]), time.perf_counter()
    features.transform(x)
    return [time.perf_counter() - t]


def peer_transformed(samples, minutes, device):
    import torchaudio_stub  # noqa: F401
    from braindecode.models import SignalJEPA
    x = torch.from_numpy(noise(minutes * 60 * 128 // samples, samples))
    model, t = SignalJEPA(chs_info=chs_info(lee2019_montage()), n_times=samples, sfreq=128).to(device).eval(), time.perf_counter()
    with torch.no_grad(): torch.cat([model(part.to(device)).unflatten(1, (62, -1)).mean(2).flatten(1).cpu() for part in x.split(8)])
    return [time.perf_counter() - t]


CONTENDERS = {"sjepa_nb": dict(tune=ours_tuned, transform=ours_transformed), "peer dropout 0": dict(tune=partial(peer_tuned, dropout=0)), "peer": dict(tune=peer_tuned, transform=peer_transformed)}


def child(contender, what, threads, device, **setting):
    from sjepa_nb.pretraining import memory_gb
    torch.set_num_threads(threads); torch.manual_seed(0)
    took = CONTENDERS[contender][what](**setting, device=device)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else memory_gb()
    print(json.dumps(dict(first=took[0], seconds=float(np.median(took[2:] if what == "tune" else took)), memory_gb=memory)))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=2); p.add_argument("--epochs", type=int, default=6); p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu"); p.add_argument("--out", type=Path, default=RESULTS); p.add_argument("--child", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: return child(**json.loads(a.child))
    settings = [dict(what="tune", head=h, strategy=s, epochs=a.epochs) for h, s in itertools.product(("contextual", "post-local", "pre-local"), ("new", "full"))]
    settings += [dict(what="transform", samples=s, minutes=m) for s, m in HOURS]
    table = []
    for r, setting, contender in itertools.product(range(a.rounds), settings, CONTENDERS):
        if setting["what"] not in CONTENDERS[contender] or (contender == "peer dropout 0" and setting["head"] != "contextual"): continue  # no dropout there
        told = dict(contender=contender, threads=a.threads, device=a.device, **setting)
        done = subprocess.run([sys.executable, __file__, "--child", json.dumps(told)], capture_output=True, text=True)
        if done.returncode: raise SystemExit(f"{told}: {done.stderr[-2000:]}")
        table.append(dict(round=r, **told, **json.loads(done.stdout.splitlines()[-1]), torch=torch.__version__))
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in table[-1].items() if k not in ("threads", "device", "torch", "epochs")}, flush=True)
        pd.DataFrame(table).round(5).to_csv(a.out, index=False)


if __name__ == "__main__": main()
