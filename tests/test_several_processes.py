"""`torchrun` with two processes on gloo: the same curve as one process, nothing repeated or left out, one writer, a killed worker."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from commands import COMMAND, Command
from sjepa_nb.masking import FixedBudgetMask, SphereMask
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.model import SJEPA
from sjepa_nb.pretraining import World, epoch_batches

pytestmark = pytest.mark.skipif(sys.platform == "win32" or not torch.distributed.is_gloo_available(), reason="needs gloo and torchrun")

OPTIONS = [*COMMAND, "--batch-size", "6"]


@pytest.fixture(scope="module")
def one(undisturbed, tmp_path_factory):
    "The run of one process."
    out = tmp_path_factory.mktemp("one") / "run"
    p = Command(*OPTIONS, "--store", undisturbed / "windows.zarr", "--out", out, threads=1); said, wrong = p.communicate()
    assert p.returncode == 0, wrong
    return out


def start(*options):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    program = "import sys; from sjepa_nb.command_line import sjepa_pretrain; sys.exit(sjepa_pretrain(sys.argv[1:]))"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2", "--monitor-interval", "0.2", "--standalone", "--no-python"]
    return subprocess.Popen([*torchrun, sys.executable, "-c", program, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True)


def end(p, seconds=300):
    "Exit code and all that was said; what hangs is ended, and fails."
    try: said, _ = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL); raise
    return p.returncode, said


def assert_same_curve(a, b):
    "Rounding apart, the losses of every step and the whole of every epoch."
    for table, columns in (("steps.csv", ["step", "epoch", "loss", "gradient"]), ("epochs.csv", ["step", "epoch", "train_loss", "loss", "trivial", "positional", "spread", "rank"])):
        pd.testing.assert_frame_equal(*(pd.read_csv(Path(f) / table)[columns] for f in (a, b)), rtol=2e-3)
    a, b = (SJEPA.load(Path(f) / "model.safetensors").state_dict() for f in (a, b))
    for k in a: torch.testing.assert_close(a[k], b[k], atol=1e-3, rtol=0)


def test_two_processes_have_the_curve_of_one(one, tmp_path):
    p = start(*OPTIONS, "--out", tmp_path / "run"); code, said = end(p)
    assert code == 0, said
    assert_same_curve(one, tmp_path / "run")
    assert said.count("windows to train on") == said.count("finished: 2 epochs") == 1 and "2 processes" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2


def test_a_killed_worker_is_replaced(one, undisturbed, tmp_path):
    "SIGKILL to the second process in the middle of the training: torchrun starts both again, and they go on from the last checkpoint."
    out = tmp_path / "run"
    p = start(*OPTIONS, "--store", undisturbed / "windows.zarr", "--out", out)
    steps = lambda: len((out / "steps.csv").read_text().splitlines()) if (out / "steps.csv").exists() else 0
    while p.poll() is None and steps() < 8: time.sleep(.02)
    found = subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True).stdout.split()
    worker = next(w for w in found if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{w}/environ").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    code, said = end(p)
    assert code == 0, said
    assert_same_curve(one, out)


def test_sigterm_to_torchrun(one, undisturbed, tmp_path):
    "All leave at the same step, saved; one process then goes on with what two began."
    out = tmp_path / "run"
    p = start(*OPTIONS, "--store", undisturbed / "windows.zarr", "--out", out)
    while p.poll() is None and (not (out / "steps.csv").exists() or len((out / "steps.csv").read_text().splitlines()) < 4): time.sleep(.02)
    p.send_signal(signal.SIGTERM)
    code, said = end(p)
    assert code != 0 and json.loads((out / "run.json").read_text())["status"] == "interrupted", said
    p = Command("--resume", "--out", out); said, wrong = p.communicate()
    assert p.returncode == 0, wrong
    assert_same_curve(one, out)


@pytest.mark.parametrize("kind", [SphereMask, FixedBudgetMask])
@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_the_whole(kind, size):
    "Each example's contexts and targets go to one process, and still belong to each other."
    masks = kind(lee2019_montage(), .6)(7, torch.Generator().manual_seed(0))
    whole = {(int(masks.example[c]), masks.visible[c].numpy().tobytes(), h.numpy().tobytes()) for c, h in zip(masks.context, masks.hidden)}
    seen, n = set(), 0
    for rank in range(size):
        examples = torch.arange(7)[rank::size]
        part = masks.subset(examples)
        n += len(part.hidden)
        seen |= {(int(examples[part.example[c]]), part.visible[c].numpy().tobytes(), h.numpy().tobytes()) for c, h in zip(part.context, part.hidden)}
    assert seen == whole and n == len(masks.hidden)


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_every_window_goes_to_one_process(size):
    batches, rows = epoch_batches(np.array([0] * 70 + [1] * 25), np.arange(95), 32, seed=[0, 3]), []
    for rank in range(size):
        world = World(); world.rank, world.size = rank, size
        rows += [r for b in batches for r in world.part(b)]
    assert sorted(rows) == list(range(95))
