"""How long does a pre-training step take, and how much memory, beside the peer's? The peer:
braindecode's `SignalJEPA` modules put together into the same step.

    python benchmarks/pretraining_step.py              # the settings of the cost page
    python benchmarks/pretraining_step.py --samples 536 --batch 32 --rounds 3

Every contender runs in a process of its own, in turn, round after round, on the same batch with the
same mask; only ratios within a round are compared, since another process on the machine slows them
all. Rows go to results/pretraining_step.csv (--out).
"""
import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import l1_loss, layer_norm

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
RESULTS = ROOT / "results" / "pretraining_step.csv"
CONTENDERS = ("sjepa_nb", "sjepa_nb float32", "peer dropout 0", "peer")
SETTINGS = ((152, 32), (536, 32), (2072, 8), (2072, 32))  # samples, batch


def batch_and_mask(samples, batch):
    "Windows of noise in microvolts, and the 9 channels around C3's neighbour that all hide."
    from sjepa_nb.masking import SphereMask
    from sjepa_nb.montage import lee2019_montage
    montage = lee2019_montage()
    table = SphereMask(montage, .6).table
    hidden = table[int((table.sum(1) == 9).nonzero()[0])]
    x = torch.randn(batch, 62, samples, generator=torch.Generator().manual_seed(0)) * 10
    return montage, x, hidden


def chs_info(montage):
    places = zip(montage.names, montage.positions)
    return [dict(ch_name=name, kind="eeg", loc=place) for name, place in places]


def without_dropout(model):
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout): m.p = 0.
        if isinstance(m, torch.nn.MultiheadAttention): m.dropout = 0.


def peer(samples, batch, dropout, device):
    "The step made of braindecode's modules: a function that takes one step and returns the loss."
    import torchaudio_stub  # noqa: F401
    from braindecode.models import SignalJEPA
    montage, x, hidden = batch_and_mask(samples, batch)
    torch.manual_seed(0)
    model = SignalJEPA(chs_info=chs_info(montage), n_times=samples, sfreq=128).to(device).train()
    if dropout == 0: without_dropout(model)
    encoder, decoder = model.transformer.encoder, model.transformer.decoder
    teacher = copy.deepcopy(encoder).requires_grad_(False).eval()
    mask_token = torch.nn.Parameter(torch.randn(64, device=device) * .02)
    trained = [*model.parameters(), mask_token]
    optimiser = torch.optim.AdamW(trained, lr=2e-4, betas=(.9, .98), weight_decay=.01,
                                  fused=True)  # as ours
    n = (samples - 152) // 128 + 1
    x, ask = x.to(device), hidden.repeat_interleave(n).to(device)

    @torch.no_grad()
    def targets(h):
        layers = []
        for layer in teacher.layers:
            h = layer(h)
            layers.append(h)
        return layer_norm(torch.stack(layers[-4:]).mean(0), (64,))[:, ask]

    def step():
        tokens = model.feature_encoder(x)
        code = model.pos_encoder(tokens)
        context = encoder((tokens + code)[:, ~ask])
        predicted = decoder(mask_token + code[:, ask].expand(len(x), -1, -1), context)
        loss = l1_loss(predicted, targets((tokens + code).detach()))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(encoder.parameters()), .001)
        return float(loss.detach())
    return step


def ours(samples, batch, precision, device):
    "The step that `Pretraining` takes."
    from sjepa_nb.contextual_encoder import set_precision
    from sjepa_nb.masking import hiding
    from sjepa_nb.model import SJEPA
    from sjepa_nb.pretraining import (
        TrainingConfig, keep_memory, make_optimiser, train_step,
    )
    keep_memory()
    montage, x, hidden = batch_and_mask(samples, batch)
    torch.manual_seed(0)
    model, config = SJEPA(montage).train(), TrainingConfig()
    set_precision(model, precision, device)
    model.to(device)
    optimiser = make_optimiser(model, config)
    x, masks = x.to(device), hiding(hidden.expand(batch, -1)).to(device)
    channels, count = torch.arange(62, device=device), iter(range(10**6))
    return lambda: train_step(model, optimiser, x, masks, channels, next(count), 10**6, config)[0]


def contender(name, samples, batch, device):
    "The step of one of `CONTENDERS`."
    if name.startswith("peer"): return peer(samples, batch, None if name == "peer" else 0, device)
    return ours(samples, batch, "float32" if "float32" in name else "auto", device)


def run(name, samples, batch, seconds, threads, device):
    "One contender, in this process: print what it took as JSON."
    torch.set_num_threads(threads)
    step = contender(name, samples, batch, device)
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(2): step()
    sync()
    took, begun = [], time.perf_counter()
    while len(took) < 2 or time.perf_counter() - begun < seconds:
        t = time.perf_counter()
        loss = step()
        sync()
        took.append(time.perf_counter() - t)
    from sjepa_nb.pretraining import memory_gb
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else memory_gb()
    seconds = float(np.median(took))
    print(json.dumps(dict(seconds=seconds, steps=len(took), memory_gb=memory, loss=loss)))


def matrix_rate(dtype, threads, device, n=2048):
    """Floating-point operations a second of square matrix products, in units of 1e9: the best of
    several stretches."""
    torch.set_num_threads(threads)
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None

    def rate(n, products):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        a @ b
        sync()
        t = time.perf_counter()
        for _ in range(products): a @ b
        sync()
        return products * 2 * n**3 / (time.perf_counter() - t) / 1e9

    if device == "cuda": return max(rate(8192, 8) for _ in range(6))
    small = rate(256, 1)
    if small < 20: return small  # a type that this processor only emulates: minutes for a large one
    return max(rate(n, 8) for _ in range(6))


def operations(samples, hidden=9, channels=62):
    """Floating-point operations of an example in units of 1e9, as the plain step counts them:
    matrix products of student (forward and twice that backward), teacher over all tokens,
    predictor. Without convolutions."""
    n = (samples - 152) // 128 + 1
    everything, seen, asked = channels * n, (channels - hidden) * n, hidden * n

    def dense(tokens): return tokens * 2 * (4 * 64 * 64 + 2 * 64 * 2048)
    def attention(queries, keys): return 4 * queries * keys * 64

    teacher = 8 * (dense(everything) + attention(everything, everything))
    student = 8 * (dense(seen) + attention(seen, seen))
    projections = (asked + seen) * 2 * 2 * 64 * 64  # of the second attention
    attended = attention(asked, asked) + attention(asked, seen)
    predictor = 4 * (dense(asked) + projections + attended)
    return (teacher + 3 * (student + predictor)) / 1e9


def measure(a, name, samples, batch):
    "What one contender took in a process of its own; None where it failed."
    options = dict(samples=samples, batch=batch, seconds=a.seconds, threads=a.threads,
                   device=a.device)
    command = [sys.executable, __file__, "--child", name]
    for option, value in options.items(): command += [f"--{option}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.returncode: return json.loads(done.stdout.splitlines()[-1])
    said = done.stderr.strip().splitlines()[-1:]
    print(f"{name}, {samples} x {batch}: failed, {said}", flush=True)


def too_large(name, samples, batch, device):
    "7.7 GB with a batch of 8: too much for most machines."
    return name == "peer" and (samples, batch) == (2072, 32) and device == "cpu"


def rounds(a, samples, batch):
    "Rows of the table for one setting: every contender in turn, round after round."
    rows = []
    for r in range(a.rounds):
        rates = {f"{d}_gflops": matrix_rate(getattr(torch, d), a.threads, a.device)
                 for d in ("float32", "bfloat16")}
        for name in a.contenders:
            if too_large(name, samples, batch, a.device): continue
            got = measure(a, name, samples, batch)
            if got is None: continue
            speed, gflops = batch / got["seconds"], batch * operations(samples) / got["seconds"]
            rows.append(dict(samples=samples, batch=batch, round=r, contender=name, **got,
                             examples_s=speed, gflops=gflops, **rates))
            print(f"{samples:5} x {batch:2} round {r + 1}  {name:18} {speed:8.2f} examples/s  "
                  f"{got['memory_gb']:5.2f} GB  {gflops:7.0f} GFLOP/s  loss {got['loss']:.4f}",
                  flush=True)
    return rows


def summary(t, contenders):
    "Print a setting's medians, and how many times as fast as each contender ours is."
    float32, bfloat16 = t.float32_gflops.median(), t.bfloat16_gflops.median()
    samples, batch = t.samples.iloc[0], t.batch.iloc[0]
    print(f"\n{samples} samples x {batch}: {operations(samples):.1f} GFLOP an example; matrix "
          f"products here: float32 {float32:.0f}, bfloat16 {bfloat16:.0f} GFLOP/s")
    wide = t.pivot(index="round", columns="contender", values="seconds")
    for name in [c for c in contenders if c in wide]:
        mine, ratio = t[t.contender == name], ""
        if "sjepa_nb" in wide and name != "sjepa_nb":
            times = wide[name] / wide["sjepa_nb"]
            ratio = (f"; sjepa_nb is {times.median():.2f} times as fast "
                     f"({times.min():.2f} to {times.max():.2f})")
        gflops = mine.gflops.median()
        print(f"  {name:18} {mine.examples_s.median():8.2f} examples/s, "
              f"{mine.memory_gb.max():.2f} GB, {gflops / float32:.0%} of the float32 and "
              f"{gflops / bfloat16:.0%} of the bfloat16 rate{ratio}")


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--samples", type=int)
    p.add_argument("--batch", type=int)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=6., help="at least, of timed steps in a round")
    p.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--child", help=argparse.SUPPRESS)
    return p.parse_args()


def main():
    a = parse()
    if a.child: return run(a.child, a.samples, a.batch, a.seconds, a.threads, a.device)
    rows = []
    for samples, batch in [(a.samples, a.batch)] if a.samples else SETTINGS:
        rows += rounds(a, samples, batch)
    device = a.device if a.device == "cpu" else torch.cuda.get_device_name()
    table = pd.DataFrame(rows).assign(threads=a.threads, device=device, torch=torch.__version__,
                                      machine=platform.machine())
    for _, t in table.groupby(["samples", "batch"]): summary(t, a.contenders)
    a.out.parent.mkdir(exist_ok=True)
    table.round(5).to_csv(a.out, index=False)


if __name__ == "__main__": main()
