"""What do fine-tuning, and the features of long recordings, cost beside the peer's?

    python benchmarks/downstream_cost.py

The peer: braindecode's `SignalJEPA` and its three heads, trained in the usual loop, as they come
(dropout 0.1 in the transformer) and without dropout. Noise in microvolts, 62 channels, random
weights. Every contender runs in a process of its own, in turn, round after round. Rows go to
results/downstream_cost.csv.
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

# also finds the stub that braindecode needs
from pretraining_step import ROOT, chs_info, without_dropout
from sjepa_nb.montage import lee2019_montage

RESULTS = ROOT / "results" / "downstream_cost.csv"
TRIALS, SAMPLES = 100, 536  # of fine-tuning: Lee2019's training run of motor imagery
HOURS = ((2072, 5), (2072, 15), (2072, 60), (536, 15), (152, 15))  # samples of a window, minutes
PEERS = {"contextual": "SignalJEPA_Contextual", "post-local": "SignalJEPA_PostLocal",
         "pre-local": "SignalJEPA_PreLocal"}


def noise(n, samples):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 62, samples), dtype=np.float32) * 10


def ours_tuned(head, strategy, epochs, device):
    "Seconds of every epoch; the first one computes the features."
    from sjepa_nb import finetuning
    begun, real = [], finetuning.train_epoch

    def watched(*a):
        begun.append(time.perf_counter())
        return real(*a)

    finetuning.train_epoch = watched
    x, y = noise(TRIALS, SAMPLES), np.arange(TRIALS) % 2
    start = time.perf_counter()
    finetuning.SJEPAClassifier(
        head=head, strategy=strategy, channels=lee2019_montage(), reference=None, epochs=epochs,
        patience=10**6, warmup_epochs=1, device=device,
    ).fit(x, y)
    return np.diff([start, *begun[1:], time.perf_counter()])


def peer_tuned(head, strategy, epochs, device, dropout=None):
    "The same with braindecode's network: the frozen part is frozen, and computed in every epoch."
    import torchaudio_stub  # noqa: F401
    from braindecode import models
    from sjepa_nb.finetuning import split_validation
    channels = chs_info(lee2019_montage())
    net = getattr(models, PEERS[head])(n_outputs=2, chs_info=channels, n_times=SAMPLES, sfreq=128)
    if dropout == 0: without_dropout(net)
    net = net.to(device)
    x = torch.from_numpy(noise(TRIALS, SAMPLES)).to(device)
    y = torch.arange(TRIALS, device=device) % 2
    train, valid = (torch.as_tensor(i) for i in split_validation(y.cpu().numpy()))
    took = []
    for epoch in range(epochs):
        start = time.perf_counter()
        if epoch < 2: optimiser = released(net, strategy == "full" and epoch == 1)
        one_epoch(net, x, y, train, valid, optimiser)
        took.append(time.perf_counter() - start)
    return took


def released(net, everything):
    "Let the new layers be trained, or all of them; the optimiser for that."
    named = dict(net.named_parameters())
    new = [p for n, p in named.items() if n.startswith(("spatial_conv", "final_layer"))]
    assert 0 < len(new) < len(named)
    net.requires_grad_(everything)
    for p in new: p.requires_grad_(True)
    return torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-3)


def one_epoch(net, x, y, train, valid, optimiser):
    "One pass over the trials to train on, and the loss of the others."
    loss_of = torch.nn.functional.cross_entropy
    net.train()
    for rows in train[torch.randperm(len(train))].split(32):
        loss = loss_of(net(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    with torch.no_grad(): float(loss_of(net(x[valid]), y[valid]))


def ours_transformed(samples, minutes, device):
    from sjepa_nb.finetuning import SJEPAFeatures
    x = noise(minutes * 60 * 128 // samples, samples)
    features = SJEPAFeatures(channels=lee2019_montage(), reference=None, device=device).fit(x[:1])
    start = time.perf_counter()
    features.transform(x)
    return [time.perf_counter() - start]


def peer_transformed(samples, minutes, device):
    import torchaudio_stub  # noqa: F401
    from braindecode.models import SignalJEPA
    x = torch.from_numpy(noise(minutes * 60 * 128 // samples, samples))
    model = SignalJEPA(chs_info=chs_info(lee2019_montage()), n_times=samples, sfreq=128)
    model = model.to(device).eval()
    start, features = time.perf_counter(), []
    for part in x.split(8):
        with torch.no_grad(): tokens = model(part.to(device)).unflatten(1, (62, -1))
        features.append(tokens.mean(2).flatten(1).cpu())
    torch.cat(features)
    return [time.perf_counter() - start]


CONTENDERS = {"sjepa_nb": dict(tune=ours_tuned, transform=ours_transformed),
              "peer dropout 0": dict(tune=partial(peer_tuned, dropout=0)),
              "peer": dict(tune=peer_tuned, transform=peer_transformed)}


def child(contender, what, threads, device, **setting):
    from sjepa_nb.pretraining import memory_gb
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    took = CONTENDERS[contender][what](**setting, device=device)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else memory_gb()
    seconds = float(np.median(took[2:] if what == "tune" else took))
    print(json.dumps(dict(first=took[0], seconds=seconds, memory_gb=memory)))


def run(told):
    "What one contender's process measured."
    command = [sys.executable, __file__, "--child", json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"{told}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def applies(contender, setting):
    "Whether a contender does this; without a transformer there is no dropout."
    if setting["what"] not in CONTENDERS[contender]: return False
    return contender != "peer dropout 0" or setting["head"] == "contextual"


def settings(epochs):
    "All that is measured."
    for head, strategy in itertools.product(PEERS, ("new", "full")):
        yield dict(what="tune", head=head, strategy=strategy, epochs=epochs)
    for samples, minutes in HOURS: yield dict(what="transform", samples=samples, minutes=minutes)


def show(row):
    "The part of a row that changes."
    told = {k: v for k, v in row.items() if k not in ("threads", "device", "torch", "epochs")}
    print({k: round(v, 3) if isinstance(v, float) else v for k, v in told.items()}, flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--epochs", type=int, default=6)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--child", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: return child(**json.loads(a.child))
    table, all_settings = [], list(settings(a.epochs))
    for r, setting, contender in itertools.product(range(a.rounds), all_settings, CONTENDERS):
        if not applies(contender, setting): continue
        told = dict(contender=contender, threads=a.threads, device=a.device, **setting)
        table.append(dict(round=r, **told, **run(told), torch=torch.__version__))
        show(table[-1])
        pd.DataFrame(table).round(5).to_csv(a.out, index=False)


if __name__ == "__main__": main()
