"""`torchrun` with two processes on gloo: the same curve as one process, nothing repeated or left
out, one writer, a killed worker.
"""
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
from sjepa_nb.batches import epoch_batches
from sjepa_nb.masking import FixedBudgetMask, SphereMask
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.model import SJEPA
from sjepa_nb.pretraining import World

HAS_GLOO = sys.platform != "win32" and torch.distributed.is_gloo_available()
pytestmark = pytest.mark.skipif(not HAS_GLOO, reason="needs gloo and torchrun")

OPTIONS = [*COMMAND, "--batch-size", "6"]


@pytest.fixture(scope="module")
def one(undisturbed, tmp_path_factory):
    "The run of one process."
    out = tmp_path_factory.mktemp("one") / "run"
    p = Command(*OPTIONS, "--store", undisturbed / "windows.zarr", "--out", out, threads=1)
    said, wrong = p.communicate()
    assert p.returncode == 0, wrong
    return out


PROGRAM = """import sys
from sjepa_nb.command_line import sjepa_pretrain
sys.exit(sjepa_pretrain(sys.argv[1:]))"""
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2",
    "--monitor-interval", "0.2", "--standalone", "--no-python"]


def start(*options):
    "Two processes of the command."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    words = [*TORCHRUN, sys.executable, "-c", PROGRAM, *map(str, options)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=env, start_new_session=True)


def end(p, seconds=300):
    "Exit code and all that was said; what hangs is ended, and fails."
    try: said, _ = p.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        raise
    return p.returncode, said


def wait_for_rows(p, out, n):
    "Until the table of steps has `n` lines, its heading included, or the run has ended."
    path = out / "steps.csv"
    while p.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= n: return
        time.sleep(.02)


COLUMNS = {
    "steps": ["step", "epoch", "loss", "gradient"],
    "epochs": ["step", "epoch", "train_loss", "loss", "trivial", "positional", "spread", "rank"]}


def assert_same_curve(a, b):
    "Rounding apart, the losses of every step and the whole of every epoch."
    for table, columns in COLUMNS.items():
        one, other = (pd.read_csv(Path(f) / f"{table}.csv")[columns] for f in (a, b))
        pd.testing.assert_frame_equal(one, other, rtol=2e-3)
    one, other = (SJEPA.load(Path(f) / "model.safetensors").state_dict() for f in (a, b))
    for k in one: torch.testing.assert_close(one[k], other[k], atol=1e-3, rtol=0)


def test_two_processes_have_the_curve_of_one(one, tmp_path):
    out = tmp_path / "run"
    code, said = end(start(*OPTIONS, "--out", out))
    assert code == 0, said
    assert_same_curve(one, out)
    assert said.count("windows to train on") == said.count("finished: 2 epochs") == 1
    assert "2 processes" in said
    assert json.loads((out / "run.json").read_text())["processes"] == 2


def test_a_killed_worker_is_replaced(one, undisturbed, tmp_path):
    """SIGKILL to the second process in the middle of the training: torchrun starts both again, and
    they go on from the last checkpoint."""
    out = tmp_path / "run"
    p = start(*OPTIONS, "--store", undisturbed / "windows.zarr", "--out", out)
    wait_for_rows(p, out, 8)
    found = subprocess.check_output(["pgrep", "-P", str(p.pid)], text=True).split()
    told = {w: Path(f"/proc/{w}/environ").read_bytes().split(b"\0") for w in found}
    second = [w for w in found if b"RANK=1" in told[w]]
    os.kill(int(second[0]), signal.SIGKILL)
    code, said = end(p)
    assert code == 0, said
    assert_same_curve(one, out)


def test_sigterm_to_torchrun(one, undisturbed, tmp_path):
    "All leave at the same step, saved; one process then goes on with what two began."
    out = tmp_path / "run"
    p = start(*OPTIONS, "--store", undisturbed / "windows.zarr", "--out", out)
    wait_for_rows(p, out, 4)
    p.send_signal(signal.SIGTERM)
    code, said = end(p)
    assert code != 0, said
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted", said
    p = Command("--resume", "--out", out)
    said, wrong = p.communicate()
    assert p.returncode == 0, wrong
    assert_same_curve(one, out)


def pairs(masks, examples):
    "Each target as its example, the visible channels of its context, and its hidden ones."
    res = set()
    for context, hidden in zip(masks.context, masks.hidden):
        example = int(examples[masks.example[context]])
        res.add((example, masks.visible[context].numpy().tobytes(), hidden.numpy().tobytes()))
    return res


@pytest.mark.parametrize("kind", [SphereMask, FixedBudgetMask])
@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_the_whole(kind, size):
    "Each example's contexts and targets go to one process, and still belong to each other."
    masks = kind(lee2019_montage(), .6)(7, torch.Generator().manual_seed(0))
    seen, n = set(), 0
    for rank in range(size):
        examples = torch.arange(7)[rank::size]
        part = masks.subset(examples)
        n += len(part.hidden)
        seen |= pairs(part, examples)
    assert seen == pairs(masks, torch.arange(7)) and n == len(masks.hidden)


@pytest.mark.parametrize("size", [1, 2, 3, 40])
def test_every_window_goes_to_one_process(size):
    montage, rows = np.array([0] * 70 + [1] * 25), []
    batches = epoch_batches(montage, np.arange(95), 32, seed=[0, 3])
    for rank in range(size):
        world = World()
        world.rank, world.size = rank, size
        rows += [r for b in batches for r in world.part(b)]
    assert sorted(rows) == list(range(95))
