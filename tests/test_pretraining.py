"""What a run leaves on disk: killed, interrupted, damaged, full disk, collapse, NaN; and the commands' own errors."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from commands import COMMAND, Command, no_large_files
from sjepa_nb import pretraining
from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.sources import moabb_sources
from sjepa_nb.store import WindowStore, build_store, split_by_subject
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.pretraining import (
    CollapseError, Pretraining, TrainingConfig, TrainingError, load_checkpoint, train_step,
)
from sjepa_nb.simulation import SimulatedMI

SMALL = SJEPAConfig(depth=2, predictor_depth=1, hidden=64, average_layers=1)
CONFIG = TrainingConfig(epochs=3, batch_size=16, precision="float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    sources = moabb_sources(SimulatedMI(n_subjects=3, n_trials=12, seed=0))
    return build_store(tmp_path_factory.mktemp("data") / "store", sources, length=152, interval=2., progress=False)


@pytest.fixture
def begin(store, tmp_path):
    split = split_by_subject(store.index, valid=[3])
    return lambda folder="run", config=CONFIG, model=SMALL, **kw: Pretraining(store, split, tmp_path / folder, config, model, progress=False, **kw)


def losses(folder):
    steps, epochs = pd.read_csv(Path(folder) / "steps.csv"), pd.read_csv(Path(folder) / "epochs.csv")
    return steps[["step", "epoch", "loss", "gradient"]], epochs[["step", "epoch", "train_loss", "loss", "trivial", "positional", "spread", "rank"]]


def assert_same_run(a, b):
    for x, y in zip(losses(a), losses(b)): pd.testing.assert_frame_equal(x, y, check_exact=True)
    a, b = SJEPA.load(Path(a) / "model.safetensors").state_dict(), SJEPA.load(Path(b) / "model.safetensors").state_dict()
    assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_seed_makes_two_runs_equal(begin, tmp_path):
    begin("a").run(); begin("b").run()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    begin("c", TrainingConfig(epochs=3, batch_size=16, precision="float32", seed=1)).run()
    assert losses(tmp_path / "a")[0].loss.iloc[0] != losses(tmp_path / "c")[0].loss.iloc[0]


def test_resume_after_an_exception_anywhere(begin, tmp_path, monkeypatch):
    "Stop at every step in turn, with and without dropout; the resumed run equals the undisturbed one."
    model = SJEPAConfig(depth=2, predictor_depth=1, hidden=64, average_layers=1, dropout=.1)
    often = TrainingConfig(epochs=2, batch_size=16, precision="float32", checkpoint_minutes=1e-9)
    whole = begin("whole", often, model); whole.run()
    for at in range(1, whole.steps, 3):
        def stop(*a, **k):
            if a[5] == at: raise InterruptedError
            return train_step(*a, **k)
        monkeypatch.setattr(pretraining, "train_step", stop)
        with pytest.raises(InterruptedError): begin(f"at{at}", often, model).run()
        monkeypatch.undo()
        begin(f"at{at}", often, model, resume=any((tmp_path / f"at{at}").glob("checkpoint*.pt"))).run()
        assert_same_run(tmp_path / "whole", tmp_path / f"at{at}")


def test_killed_at_random_moments(undisturbed, tmp_path):
    "SIGKILL while it reads, then twice while it trains, validates or saves; in the end the losses and weights are those of the undisturbed run."
    rng, out, kills = random.Random(0), tmp_path / "run", 0
    steps = lambda: len((out / "steps.csv").read_text().splitlines()) if (out / "steps.csv").exists() else 0
    for reached in (lambda: any(out.glob("windows.zarr.partial/*")), lambda: steps() >= 4, lambda: steps() >= 10):
        p = Command(*(["--resume", "--checkpoint-minutes", "0.001"] if (out / "command.json").exists() else COMMAND), "--out", out, "--quiet")
        while p.poll() is None and not reached(): time.sleep(.02)
        time.sleep(rng.uniform(0, .5))
        kills += p.poll() is None
        p.kill(); p.communicate()
    p = Command("--resume", "--out", out, "--quiet")
    said, wrong = p.communicate()
    assert p.returncode == 0, wrong
    assert kills == 3
    assert_same_run(undisturbed, out)


def test_sigterm_saves_and_leaves(undisturbed, tmp_path):
    whole, out = undisturbed, tmp_path / "run"
    p = Command(*COMMAND[:-2], "--store", whole / "windows.zarr", "--out", out)
    while not (out / "steps.csv").exists() and p.poll() is None: time.sleep(.05)
    time.sleep(.3); p.send_signal(signal.SIGTERM)
    said, wrong = p.communicate()
    if p.returncode: # else it was done already
        assert p.returncode == 130 and "SIGTERM: saved after step" in wrong and "Traceback" not in wrong
        assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
        assert load_checkpoint(out)["step"] == len(pd.read_csv(out / "steps.csv"))
        p = Command("--resume", "--out", out, "--quiet"); p.communicate()
        assert p.returncode == 0
    assert_same_run(whole, out)


def test_the_same_windows_or_none(begin, store, tmp_path):
    "A run is resumed on its own windows, not on as many others; nobody both trains and validates; one process at a time."
    run = begin(); run._epoch({"by": "stop"}); run._save()
    with pytest.raises(ValueError, match="another process is training"): begin(resume=True)
    run.lock.release()
    split = {k: v[:20] for k, v in run.split.items()}
    make = lambda split, resume, folder="other": Pretraining(store, split, tmp_path / folder, CONFIG, SMALL, resume=resume, progress=False)
    a = make(split, False); a._epoch({"by": "stop"}); a._save(); a.lock.release()
    with pytest.raises(ValueError, match="train_rows"): make(dict(train=split["valid"], valid=split["train"]), True)
    with pytest.raises(ValueError, match="to train and to validate"): make(dict(train=split["train"], valid=split["train"]), False, "third")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(begin, tmp_path):
    begin("whole").run(); begin("run").run()
    newest = tmp_path / "run" / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    begin("run", resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    for f in (tmp_path / "run").glob("checkpoint*.pt"): f.write_bytes(b"no")
    with pytest.raises(ValueError, match="no checkpoint in .* can be read"): begin("run", resume=True)


def test_a_pickle_is_not_opened(begin, tmp_path):
    (tmp_path / "run").mkdir()
    class Bad:
        def __reduce__(self): return (os.mkdir, (str(tmp_path / "code_ran"),))
    torch.save(Bad(), tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ValueError, match="can be read"): begin("run", resume=True)
    assert not (tmp_path / "code_ran").exists()


def test_another_architecture_or_data(begin, tmp_path):
    begin().run()
    with pytest.raises(ValueError, match="belongs to another run .*depth: 2 then, 3 now"): begin(model=SJEPAConfig(depth=3, predictor_depth=1, hidden=64, average_layers=1), resume=True)
    with pytest.raises(ValueError, match="learning_rate"): begin(config=TrainingConfig(epochs=3, batch_size=16, precision="float32", learning_rate=1e-3), resume=True)
    with pytest.raises(FileExistsError, match="holds a run already"): begin()
    with pytest.raises(FileNotFoundError, match="nothing to resume"): begin("none", resume=True)


def test_nan_stops_with_the_last_good_state(begin, tmp_path, monkeypatch):
    run = begin()
    masked = pretraining.SJEPA.forward
    calls = dict(n=0)
    def poisoned(self, *a, **k):
        out = masked(self, *a, **k); calls["n"] += self.training
        return out._replace(loss=out.loss * float("nan")) if calls["n"] > run.batches_per_epoch + 1 and self.training else out
    monkeypatch.setattr(pretraining.SJEPA, "forward", poisoned)
    with pytest.raises(TrainingError, match="the last good state is kept"): run.run()
    state = load_checkpoint(tmp_path / "run")
    assert state["step"] == run.batches_per_epoch
    assert all(torch.isfinite(v).all() for v in state["model"].values() if v.is_floating_point())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"].startswith("stopped")


def test_collapse_stops_the_run(begin, monkeypatch):
    "Targets that are the same for every window: the run stops after its first epoch and says what to change."
    targets = pretraining.SJEPA.hidden_targets
    monkeypatch.setattr(pretraining.SJEPA, "hidden_targets", lambda self, tokens, masks: targets(self, torch.zeros_like(tokens) + self.position.spatial.mean(), masks))
    with pytest.raises(CollapseError, match="collapsed.*Lower the learning rate"): begin().run()


def test_reading_ahead_changes_nothing(begin, tmp_path):
    a, b = begin("a", workers=0), begin("b", workers=2)
    a.run(); b.run()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert pd.read_csv(tmp_path / "b" / "epochs.csv").waiting.between(0, 1).all()


@pytest.mark.skipif(sys.platform != "linux", reason="readers are copies of the process on Linux alone")
def test_readers_go_when_the_training_is_killed(begin, tmp_path):
    "SIGKILL to the training process: its reader goes too, and holds no lock."
    program = f"""
import os, sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})
from sjepa_nb.store import WindowStore, split_by_subject
from sjepa_nb.pretraining import Pretraining, batch_loader
from test_pretraining import CONFIG, SMALL
store = WindowStore({str(begin("other").store.path)!r})
run = Pretraining(store, split_by_subject(store.index, valid=[3]), {str(tmp_path / "run")!r}, CONFIG, SMALL, progress=False)
loader = iter(batch_loader(store, [run.split["train"][:4]] * 50, workers=1, lock=run.lock)); next(loader)
print(loader._workers[0].pid, flush=True); time.sleep(60)"""
    p = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    reader = int(p.stdout.readline())
    p.kill(); p.wait()
    for _ in range(50):
        if not Path(f"/proc/{reader}").exists() or Path(f"/proc/{reader}/stat").read_text().split()[2] == "Z": break
        time.sleep(.1)
    else: raise AssertionError("the reader lives on")
    begin("run")


@pytest.mark.skipif(sys.platform != "linux", reason="readers are copies of the process on Linux alone")
def test_a_process_that_still_holds_a_reader_can_end(begin):
    program = f"""
from sjepa_nb.store import WindowStore
from sjepa_nb.pretraining import batch_loader
store = WindowStore({str(begin("other").store.path)!r})
loader = iter(batch_loader(store, [[0, 1]] * 50, workers=1)); next(loader)
import builtins; builtins.held = loader"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_trace(begin, tmp_path):
    begin(trace=2).run()
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert any("PackedAttention" in e.get("name", "") or "scaled_dot_product" in e.get("name", "") for e in events)


def test_a_full_disk(undisturbed, tmp_path):
    "A limit on the size of files stands for a full disk: an error of one line, no half-written file under a final name."
    whole, out = undisturbed, tmp_path / "run"
    p = Command(*COMMAND, "--store", whole / "windows.zarr", "--out", out, before=no_large_files)
    said, wrong = p.communicate()
    assert p.returncode == 2, wrong
    lines = [l for l in wrong.splitlines() if l]
    assert len(lines) == 1 and "could not write" in lines[0] and "disk full" in lines[0], wrong
    assert not list(out.glob("*.pt")) and not list(out.glob("*.safetensors")) and not list(out.glob(".*part"))
    p = Command("--resume", "--out", out, "--quiet"); said, wrong = p.communicate()  # with room again, it goes on
    assert p.returncode == 0, wrong
    assert_same_run(whole, out)


@pytest.mark.parametrize("words, said", [
    (["--device", "nonsense"], "is not a device"), (["--device", "cuda:99"], "no CUDA device"), (["--length", "inf"], "whole seconds"), (["--length", "1.5"], "whole seconds"),
    (["--interval", "nan"], "--interval"), (["--mask", "nan"], "radius must be positive"), (["--valid-share", "2"], "between 0 and 1"), (["--seed", "-1"], "seed"), (["--dropout", "2"], "dropout"),
    (["--subject-regex", "x"], "is for --recordings"), (["--dataset", "PhysionetMI", "--subjects", "777"], "no subject 777"), (["--dataset", "Lee2019_MY"], "close: Lee2019_MI"), (["--recordings", "missing.edf"], "no such file")])
def test_wrong_options_are_found_at_once(words, said, tmp_path, capsys):
    assert sjepa_pretrain([*COMMAND, *words, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_mistake_before_the_first_step_can_be_corrected(tmp_path, capsys):
    "A wrong subject is found after the windows are cut; the corrected command takes the folder, and its windows, over."
    words = [*COMMAND, "--out", str(tmp_path / "run")]
    assert sjepa_pretrain([*words, "--valid-subjects", "99"]) == 2
    assert "no windows of subject 99" in capsys.readouterr().err
    assert sjepa_pretrain([*words, "--epochs", "1"]) == 0


def test_an_unwritable_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert sjepa_pretrain([*COMMAND, "--out", str(tmp_path / "file" / "run")]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1 and "file" in said


def test_too_short(tmp_path, capsys):
    assert sjepa_pretrain(["--dataset", "simulated", "--length", "0", "--out", str(tmp_path / "run")]) == 2
    assert "152 samples" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_vanished_store(begin, store, tmp_path, workers):
    "The store goes away in mid-run: an error of one line, and the run can be resumed when it is back."
    shutil.copytree(store.path, tmp_path / "copy")
    run = Pretraining(WindowStore(tmp_path / "copy"), split_by_subject(store.index, valid=[3]), tmp_path / "run", CONFIG, SMALL, progress=False, workers=workers)
    run._epoch({"by": None}); run._close_epoch()
    shutil.move(tmp_path / "copy", tmp_path / "away")
    with pytest.raises(TrainingError, match="^step .*: the windows cannot be read .*damaged store.* kept: mend it, and resume$"): run.run()
    begin("whole").run(); begin("run", resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_two_montages_in_one_training(tmp_path):
    "Recordings of 62 and of 8 channels in one store: batches of one montage each, one table of position rows, every channel trained."
    import mne
    from sjepa_nb.sources import file_sources
    rng = np.random.default_rng(0)
    files = []
    for k, names in enumerate((["Fp1", "Fp2", "C3", "Cz", "C4", "O1", "Oz", "O2"], ["POz", "Oz", "O1", "O2", "PO3", "PO4"])):
        for s in (1, 2):
            raw = mne.io.RawArray(rng.normal(size=(len(names), 60 * 200)) * 1e-5, mne.create_info(names, (200., 256.)[k], "eeg"), verbose="ERROR")
            files.append(tmp_path / f"sub-{k}{s}_raw.fif"); raw.save(files[-1], verbose="ERROR")
    store = build_store(tmp_path / "store", file_sources(files), length=152, interval=2., progress=False)
    assert [len(m) for m in store.montages] == [8, 6] and len(store.montage) == 11
    split = split_by_subject(store.index, valid=["02", "12"])
    run = Pretraining(store, split, tmp_path / "run", TrainingConfig(epochs=1, batch_size=8, precision="float32"), SMALL, progress=False)
    before = run.model.position.spatial.detach().clone()
    run.run()
    assert (run.model.position.spatial - before).abs().amax(1).min() > 0


def test_the_predictor_has_a_rate_of_its_own(begin):
    "It is checked, it reaches the optimiser, and it belongs to a run."
    for wrong in (0., -1., float("nan")):
        with pytest.raises(ValueError, match="predictor_rate"): TrainingConfig(predictor_rate=wrong)
    run = begin(config=TrainingConfig(epochs=1, batch_size=16, precision="float32", predictor_rate=3.)); run.run()
    names = {id(p): n for n, p in run.model.named_parameters()}
    last = pretraining.learning_rate(run.steps - 1, run.steps, run.config)
    for group in run.optimiser.param_groups:
        for p in group["params"]: assert group["lr"] == pytest.approx(last * (3 if names[id(p)].startswith("predictor.") else 1))
    with pytest.raises(ValueError, match="predictor_rate: 3.0 then, 4.0 now"): begin(config=TrainingConfig(epochs=1, batch_size=16, precision="float32"), resume=True)


def test_schedules():
    c = TrainingConfig()
    rates = [pretraining.learning_rate(s, 1000, c) for s in range(1000)]
    assert max(rates) == pytest.approx(c.learning_rate) and rates[0] < rates[50] < rates[99] and rates[-1] == pytest.approx(c.final_rate * c.learning_rate, rel=.01)
    m = [pretraining.momentum(s, 1000, c) for s in range(1000)]
    assert all(a <= b for a, b in zip(m, m[1:])) and (m[0], m[-1]) == pytest.approx(c.momentum)


def test_probes_are_asked_on_the_way_and_can_choose_the_best_epoch(begin):
    "Their columns, when they are asked, what is kept, and that a run goes on as it would have."
    scores = iter([.7, .9, .6])

    def probe(model): return {"task local": next(scores), "task contextual": float("nan")}
    probe.name = "task"
    config = TrainingConfig(epochs=3, batch_size=16, precision="float32", probe_steps=1, select="probe")
    run = begin(config=config, probes=[probe]); run.run()
    rows = run.epochs_table.rows()
    assert [r["task local"] for r in rows] == [.7, .9, .6] and run.best_epoch == 1 and run.best == -.9
    assert all(np.isnan(r["task contextual"]) for r in rows)
    told = json.loads((run.folder / "run.json").read_text())
    assert told["best_probe"] == .9 and told["data"]["probes"] == ["task"]
    with pytest.raises(ValueError, match="needs probes to select by"): begin(config=config)


def test_what_is_left_of_the_random_start_is_the_product_of_the_momenta(begin):
    run = begin(config=TrainingConfig(epochs=2, batch_size=16, precision="float32")); run.run()
    momenta = [pretraining.momentum(k, run.steps, run.config) for k in range(run.steps)]
    assert run.epochs_table.rows()[-1]["random_share"] == pytest.approx(np.prod(momenta))


def test_windows_may_begin_anywhere(begin):
    "A crop is as long as asked, differs from step to step, and is the same when a step is repeated."
    run = begin(config=TrainingConfig(epochs=1, batch_size=16, precision="float32", crop=152))
    x = torch.arange(300.).expand(2, 3, 300)
    starts = []
    for run.step in range(20): starts.append(int(run._cropped(x)[0, 0, 0]))
    assert len(set(starts)) > 5 and max(starts) <= 148
    run.step = 7
    assert int(run._cropped(x)[0, 0, 0]) == starts[7] and run._cropped(x).shape == (2, 3, 152)
    run.lock.release()
    with pytest.raises(ValueError, match="crop is at most a window's length"): begin(config=TrainingConfig(crop=10_000))


def test_steps_are_filled_with_whole_epochs(begin):
    run = begin(config=TrainingConfig(steps=5, batch_size=16, precision="float32"))
    assert run.steps >= 5 and run.steps % run.batches_per_epoch == 0 and run.steps - run.batches_per_epoch < 5
    run.lock.release()


@pytest.mark.parametrize("select,best", [("relative", 2), ("loss", 0)])
def test_the_best_epoch_is_chosen_by_the_rule_that_was_asked_for(begin, monkeypatch, select, best):
    "A loss that rises because the targets come to hold more: the paper's rule keeps the first epoch, the ratio the last."
    usual, seen = pretraining.validate, iter([(.2, .2), (.4, .6), (.3, .6)])

    def validate(*args, **kwargs):
        loss, positional = next(seen)
        return usual(*args, **kwargs) | dict(loss=loss, positional=positional)

    monkeypatch.setattr(pretraining, "validate", validate)
    run = begin(config=TrainingConfig(epochs=3, batch_size=16, precision="float32", select=select)); run.run()
    assert run.best_epoch == best and json.loads((run.folder / "run.json").read_text())["best_epoch"] == best + 1
