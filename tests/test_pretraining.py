"""What a run leaves on disk: killed, interrupted, damaged, full disk, collapse, NaN.

And the command's own errors."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
import torch

from commands import COMMAND, Command, no_large_files
from sjepa_nb import pretraining
from sjepa_nb.batches import MASKS, montage_masks
from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.sources import file_sources, moabb_sources
from sjepa_nb.store import WindowStore, build_store, split_by_subject
from sjepa_nb.masking import SphereMask
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.montage import named_montage
from sjepa_nb.diagnostics import CollapseError, TrainingError
from sjepa_nb.pretraining import Pretraining, TrainingConfig, load_checkpoint, train_step
from sjepa_nb.simulation import SimulatedMI

SMALL = SJEPAConfig(depth=2, predictor_depth=1, hidden=64, average_layers=1)
FEW = dict(batch_size=16, precision="float32")
CONFIG = TrainingConfig(epochs=3, **FEW)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="readers are copies on Linux alone")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    sources = moabb_sources(SimulatedMI(n_subjects=3, n_trials=12, seed=0))
    path = tmp_path_factory.mktemp("data") / "store"
    return build_store(path, sources, length=152, interval=2., progress=False)


@pytest.fixture
def begin(store, tmp_path):
    split = split_by_subject(store.index, valid=[3])

    def make(folder="run", config=CONFIG, model=SMALL, **settings):
        folder = tmp_path / folder
        return Pretraining(store, split, folder, config, model, progress=False, **settings)

    return make


def losses(folder):
    "What a run's tables say, but for times."
    steps, epochs = (pd.read_csv(Path(folder) / f"{table}.csv") for table in ("steps", "epochs"))
    seen = ["step", "epoch", "train_loss", "loss", "trivial", "positional", "spread", "rank"]
    return steps[["step", "epoch", "loss", "gradient"]], epochs[seen]


def weights(folder): return SJEPA.load(Path(folder) / "model.safetensors").state_dict()


def assert_same_run(a, b):
    for x, y in zip(losses(a), losses(b)): pd.testing.assert_frame_equal(x, y, check_exact=True)
    one, other = weights(a), weights(b)
    assert all(torch.equal(v, other[k]) for k, v in one.items())


def first_step(run):
    "Stop after one step, saved, as a signal does."
    run._epoch({"by": "stop"})
    run._save()


def go_on(out, *options):
    "Resume with the command; it must end well."
    p = Command("--resume", "--out", out, "--quiet", *options)
    said, wrong = p.communicate()
    assert p.returncode == 0, wrong


def rows_of(out):
    "Lines of a run's table of steps, its heading included."
    path = out / "steps.csv"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_seed_makes_two_runs_equal(begin, tmp_path):
    begin("a").run()
    begin("b").run()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    begin("c", TrainingConfig(epochs=3, **FEW, seed=1)).run()
    assert losses(tmp_path / "a")[0].loss.iloc[0] != losses(tmp_path / "c")[0].loss.iloc[0]


def test_resume_after_an_exception_anywhere(begin, tmp_path, monkeypatch):
    "Stop at one step after the other, with dropout; the resumed run equals the undisturbed one."
    model = replace(SMALL, dropout=.1)
    often = TrainingConfig(epochs=2, **FEW, checkpoint_minutes=1e-9)
    whole = begin("whole", often, model)
    whole.run()
    for at in range(1, whole.steps, 3):
        def stop(*args, **settings):
            if args[5] == at: raise InterruptedError
            return train_step(*args, **settings)

        monkeypatch.setattr(pretraining, "train_step", stop)
        with pytest.raises(InterruptedError): begin(f"at{at}", often, model).run()
        monkeypatch.undo()
        begun = any((tmp_path / f"at{at}").glob("checkpoint*.pt"))
        begin(f"at{at}", often, model, resume=begun).run()
        assert_same_run(tmp_path / "whole", tmp_path / f"at{at}")


def test_killed_at_random_moments(undisturbed, tmp_path):
    """SIGKILL while it reads, then twice while it trains, validates or saves; in the end the losses
    and weights are those of the undisturbed run."""
    rng, out, kills = random.Random(0), tmp_path / "run", 0
    reads = lambda: any(out.glob("windows.zarr.partial/*"))
    for reached in (reads, lambda: rows_of(out) >= 4, lambda: rows_of(out) >= 10):
        begun = (out / "command.json").exists()
        words = ["--resume", "--checkpoint-minutes", "0.001"] if begun else COMMAND
        p = Command(*words, "--out", out, "--quiet")
        while p.poll() is None and not reached(): time.sleep(.02)
        time.sleep(rng.uniform(0, .5))
        if p.poll() is None: kills += 1
        p.kill()
        p.communicate()
    go_on(out)
    assert kills == 3
    assert_same_run(undisturbed, out)


def test_sigterm_saves_and_leaves(undisturbed, tmp_path):
    whole, out = undisturbed, tmp_path / "run"
    p = Command(*COMMAND[:-2], "--store", whole / "windows.zarr", "--out", out)
    while not (out / "steps.csv").exists() and p.poll() is None: time.sleep(.05)
    time.sleep(.3)
    p.send_signal(signal.SIGTERM)
    said, wrong = p.communicate()
    if p.returncode:  # else it was done already
        assert p.returncode == 130
        assert "SIGTERM: saved after step" in wrong and "Traceback" not in wrong
        assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
        assert load_checkpoint(out)["step"] == len(pd.read_csv(out / "steps.csv"))
        go_on(out)
    assert_same_run(whole, out)


def test_the_same_windows_or_none(begin, store, tmp_path):
    """A run is resumed on its own windows, not on as many others; nobody both trains and validates;
    one process at a time."""
    run = begin()
    first_step(run)
    with pytest.raises(ValueError, match="another process is at work"): begin(resume=True)
    run.lock.release()

    def make(train, valid, resume, folder="other"):
        return Pretraining(store, dict(train=train, valid=valid), tmp_path / folder, CONFIG, SMALL,
                           resume=resume, progress=False)

    train, valid = run.split["train"][:20], run.split["valid"][:20]
    other = make(train, valid, False)
    first_step(other)
    other.lock.release()
    with pytest.raises(ValueError, match="train_rows"): make(valid, train, True)
    with pytest.raises(ValueError, match="to train and to validate"):
        make(train, train, False, "third")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(begin, tmp_path):
    begin("whole").run()
    begin("run").run()
    newest = tmp_path / "run" / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    begin("run", resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    for f in (tmp_path / "run").glob("checkpoint*.pt"): f.write_bytes(b"no")
    with pytest.raises(ValueError, match="no checkpoint in .* can be read"):
        begin("run", resume=True)


def test_a_pickle_is_not_opened(begin, tmp_path):
    (tmp_path / "run").mkdir()

    class Bad:
        def __reduce__(self): return (os.mkdir, (str(tmp_path / "code_ran"),))

    torch.save(Bad(), tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(ValueError, match="can be read"): begin("run", resume=True)
    assert not (tmp_path / "code_ran").exists()


def test_another_architecture_or_data(begin, tmp_path):
    begin().run()
    with pytest.raises(ValueError, match="belongs to another run .*depth: 2 then, 3 now"):
        begin(model=replace(SMALL, depth=3), resume=True)
    with pytest.raises(ValueError, match="learning_rate"):
        begin(config=replace(CONFIG, learning_rate=1e-3), resume=True)
    with pytest.raises(FileExistsError, match="holds a run already"): begin()
    with pytest.raises(FileNotFoundError, match="nothing to resume"): begin("none", resume=True)


def test_a_network_of_ones_own_is_trained(begin, monkeypatch):
    class Twofold(SJEPA):
        "Targets of twice the size."
        def targets(self, tokens): return 2 * super().targets(tokens)

    few = replace(CONFIG, epochs=1)
    usual = begin("usual", few)
    monkeypatch.setattr(Pretraining, "network", Twofold)
    own = begin("own", few)
    own.run()
    assert type(own.model) is Twofold
    monkeypatch.undo()
    with pytest.raises(ValueError, match="network: Twofold then, SJEPA now"):
        begin("own", few, resume=True)
    usual.run()
    own, usual = (run.epochs_log.rows()[0]["trivial"] for run in (own, usual))
    assert own > 1.5 * usual


def test_nan_stops_with_the_last_good_state(begin, tmp_path, monkeypatch):
    run = begin()
    masked = pretraining.SJEPA.forward
    calls = dict(n=0)

    def poisoned(self, *args, **settings):
        out = masked(self, *args, **settings)
        if not self.training: return out
        calls["n"] += 1
        if calls["n"] <= run.batches_per_epoch + 1: return out
        return out._replace(loss=out.loss * float("nan"))

    monkeypatch.setattr(pretraining.SJEPA, "forward", poisoned)
    with pytest.raises(TrainingError, match="the last good state is kept"): run.run()
    state = load_checkpoint(tmp_path / "run")
    assert state["step"] == run.batches_per_epoch
    for v in state["model"].values(): assert torch.isfinite(v).all()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"].startswith("stopped")


def test_collapse_stops_the_run(begin, monkeypatch):
    "Targets alike for every window: the run stops after its first epoch and says what to change."
    targets = pretraining.SJEPA.hidden_targets

    def alike(self, tokens, masks):
        return targets(self, torch.zeros_like(tokens) + self.position.spatial.mean(), masks)

    monkeypatch.setattr(pretraining.SJEPA, "hidden_targets", alike)
    with pytest.raises(CollapseError, match="collapsed.*Lower the learning rate"): begin().run()


def test_reading_ahead_changes_nothing(begin, tmp_path):
    begin("a", workers=0).run()
    begin("b", workers=2).run()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert pd.read_csv(tmp_path / "b" / "epochs.csv").waiting.between(0, 1).all()


@LINUX
def test_readers_go_when_the_training_is_killed(begin, tmp_path):
    "SIGKILL to the training process: its reader goes too, and holds no lock."
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from sjepa_nb.batches import batch_loader
from sjepa_nb.pretraining import Pretraining
from sjepa_nb.store import WindowStore, split_by_subject
from test_pretraining import CONFIG, SMALL
store = WindowStore({str(begin("other").store.path)!r})
split = split_by_subject(store.index, valid=[3])
run = Pretraining(store, split, {str(tmp_path / "run")!r}, CONFIG, SMALL, progress=False)
loader = iter(batch_loader(store, [split["train"][:4]] * 50, workers=1, lock=run.lock))
next(loader)
print(loader._workers[0].pid, flush=True)
time.sleep(60)"""
    p = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    reader = Path("/proc") / p.stdout.readline().strip()
    p.kill()
    p.wait()
    for _ in range(50):
        if not is_alive(reader): break
        time.sleep(.1)
    else: raise AssertionError("the reader lives on")
    begin("run")


def is_alive(process):
    "Whether a process, by its folder in /proc, is there and no zombie."
    return process.exists() and (process / "stat").read_text().split()[2] != "Z"


@LINUX
def test_a_process_that_still_holds_a_reader_can_end(begin):
    program = f"""
import builtins
from sjepa_nb.batches import batch_loader
from sjepa_nb.store import WindowStore
store = WindowStore({str(begin("other").store.path)!r})
loader = iter(batch_loader(store, [[0, 1]] * 50, workers=1))
next(loader)
builtins.held = loader"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_trace(begin, tmp_path):
    begin(trace=2).run()
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    names = " ".join(e.get("name", "") for e in events)
    assert "PackedAttention" in names or "scaled_dot_product" in names


def test_a_full_disk(undisturbed, tmp_path):
    """A limit on the size of files stands for a full disk: an error of one line, no half-written
    file under a final name."""
    whole, out = undisturbed, tmp_path / "run"
    p = Command(*COMMAND, "--store", whole / "windows.zarr", "--out", out, before=no_large_files)
    said, wrong = p.communicate()
    assert p.returncode == 2, wrong
    lines = [line for line in wrong.splitlines() if line]
    assert len(lines) == 1 and "could not write" in lines[0] and "disk full" in lines[0], wrong
    for halves in ("*.pt", "*.safetensors", ".*part"): assert not list(out.glob(halves))
    go_on(out)  # with room again
    assert_same_run(whole, out)


def test_weights_without_a_checkpoint_are_a_false_start(begin, tmp_path, monkeypatch):
    "The disk is full, or a kill comes, between the first weights and the first checkpoint."
    out, about = tmp_path / "run", tmp_path / "run" / "run.json"
    def no_room(run): raise OSError("could not write checkpoint.new.pt")
    with monkeypatch.context() as m:
        m.setattr(Pretraining, "_save", no_room)
        with pytest.raises(OSError): begin().run()
    told = json.loads(about.read_text())
    assert told["status"] == "stopped: could not write checkpoint.new.pt"
    assert (out / "model.safetensors").exists() and not list(out.glob("*.pt"))
    begin().lock.release()
    about.write_text(json.dumps(told | dict(status="running", epochs=0)))  # what a kill leaves
    begin().run()
    assert json.loads(about.read_text())["status"] == "finished"
    for checkpoint in out.glob("*.pt"): checkpoint.unlink()  # to save room
    for damage in (lambda: None, lambda: about.write_text("[]"), about.unlink):
        damage()
        with pytest.raises(FileExistsError, match="holds a run already"): begin()


@pytest.mark.parametrize("words, said", [
    ("--device nonsense", "is not a device"), ("--device cuda:99", "no CUDA device"),
    ("--device meta", "there is none here"), ("--jobs 0", "--jobs is a number of processes"),
    ("--seed 4294967296", "--seed lies between 0 and 4294967295"),
    ("--length inf", "whole seconds"), ("--length 1.5", "whole seconds"),
    ("--interval nan", "--interval"), ("--mask nan", "radius must be positive"),
    ("--valid-share 2", "between 0 and 1"), ("--seed -1", "seed"), ("--dropout 2", "dropout"),
    ("--subject-regex x", "is for --recordings"),
    ("--dataset PhysionetMI --subjects 777", "no subject 777"),
    ("--dataset Lee2019_MY", "close: Lee2019_MI"),
    ("--probe PhysionetMI --probe-subjects 400", "--probe PhysionetMI has no subject 400"),
    ("--probe simulated --probe-subjects 9 x", "--probe simulated has no subject x"),
    ("--recordings missing.edf", "no such file")])
def test_wrong_options_are_found_at_once(words, said, tmp_path, capsys):
    assert sjepa_pretrain([*COMMAND, *words.split(), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_mistake_before_the_first_step_can_be_corrected(tmp_path, capsys):
    """A wrong subject is found after the windows are cut; the corrected command takes the folder,
    and its windows, over."""
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
    words = ["--dataset", "simulated", "--length", "0", "--out", str(tmp_path / "run")]
    assert sjepa_pretrain(words) == 2
    assert "152 samples" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_vanished_store(begin, store, tmp_path, workers):
    "The store goes away: an error of one line, and the run can be resumed when it is back."
    copy, split = tmp_path / "copy", split_by_subject(store.index, valid=[3])
    shutil.copytree(store.path, copy)
    run = Pretraining(WindowStore(copy), split, tmp_path / "run", CONFIG, SMALL,
                      progress=False, workers=workers)
    run._epoch({"by": None})
    run._close_epoch()
    shutil.move(copy, tmp_path / "away")
    said = "^step .*: the windows cannot be read .*damaged store.* kept: mend it, and resume$"
    with pytest.raises(TrainingError, match=said): run.run()
    begin("whole").run()
    begin("run", resume=True).run()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def noise_recording(path, names, sfreq, rng):
    "A minute or so of noise."
    signal = rng.normal(size=(len(names), 60 * 200)) * 1e-5
    raw = mne.io.RawArray(signal, mne.create_info(names, sfreq, "eeg"), verbose="ERROR")
    raw.save(path, verbose="ERROR")
    return path


def test_two_montages_in_one_training(tmp_path):
    """Recordings of 8 and of 6 channels in one store: batches of one montage each, one table of
    position rows, every channel trained."""
    rng, files = np.random.default_rng(0), []
    caps = "Fp1 Fp2 C3 Cz C4 O1 Oz O2", "POz Oz O1 O2 PO3 PO4"
    for k, names in enumerate(map(str.split, caps)):
        for s in (1, 2):
            path = tmp_path / f"sub-{k}{s}_raw.fif"
            files.append(noise_recording(path, names, (200., 256.)[k], rng))
    sources = file_sources(files)
    store = build_store(tmp_path / "store", sources, length=152, interval=2., progress=False)
    assert [len(m) for m in store.montages] == [8, 6] and len(store.montage) == 11
    split = split_by_subject(store.index, valid=["02", "12"])
    config = TrainingConfig(epochs=1, batch_size=8, precision="float32")
    run = Pretraining(store, split, tmp_path / "run", config, SMALL, progress=False)
    before = run.model.position.spatial.detach().clone()
    run.run()
    assert (run.model.position.spatial - before).abs().amax(1).min() > 0


def test_the_predictor_has_a_rate_of_its_own(begin):
    "It is checked, it reaches the optimiser, and it belongs to a run."
    for wrong in (0., -1., float("nan")):
        with pytest.raises(ValueError, match="predictor_rate"): TrainingConfig(predictor_rate=wrong)
    run = begin(config=TrainingConfig(epochs=1, **FEW, predictor_rate=3.))
    run.run()
    names = {id(p): n for n, p in run.model.named_parameters()}
    last = pretraining.learning_rate(run.steps - 1, run.steps, run.config)
    for group in run.optimiser.param_groups:
        for p in group["params"]:
            factor = 3 if names[id(p)].startswith("predictor.") else 1
            assert group["lr"] == pytest.approx(last * factor)
    with pytest.raises(ValueError, match="predictor_rate: 3.0 then, 4.0 now"):
        begin(config=TrainingConfig(epochs=1, **FEW), resume=True)


def test_schedules():
    c = TrainingConfig()
    rates = [pretraining.learning_rate(s, 1000, c) for s in range(1000)]
    assert max(rates) == pytest.approx(c.learning_rate)
    assert rates[0] < rates[50] < rates[99]
    assert rates[-1] == pytest.approx(c.final_rate * c.learning_rate, rel=.01)
    m = [pretraining.momentum(s, 1000, c) for s in range(1000)]
    assert all(a <= b for a, b in zip(m, m[1:])) and (m[0], m[-1]) == pytest.approx(c.momentum)


def test_probes_are_asked_on_the_way_and_can_choose_the_best_epoch(begin):
    "Their columns, when they are asked, what is kept, and that a run goes on as it would have."
    scores = iter([.7, .9, .6])

    def probe(model): return {"task local": next(scores), "task contextual": float("nan")}
    probe.name = "task"
    config = TrainingConfig(epochs=3, **FEW, probe_steps=1, select="probe")
    run = begin(config=config, probes=[probe])
    run.run()
    rows = run.epochs_log.rows()
    assert [r["task local"] for r in rows] == [.7, .9, .6]
    assert run.best_epoch == 1 and run.best == -.9
    assert all(np.isnan(r["task contextual"]) for r in rows)
    told = json.loads((run.folder / "run.json").read_text())
    assert told["best_probe"] == .9 and told["data"]["probes"] == ["task"]
    with pytest.raises(ValueError, match="needs probes to select by"): begin(config=config)


def test_what_is_left_of_the_random_start_is_the_product_of_the_momenta(begin):
    run = begin(config=TrainingConfig(epochs=2, **FEW))
    run.run()
    momenta = [pretraining.momentum(k, run.steps, run.config) for k in range(run.steps)]
    assert run.epochs_log.rows()[-1]["random_share"] == pytest.approx(np.prod(momenta))


def test_windows_may_begin_anywhere(begin):
    "A crop is as long as asked, differs from step to step, and is the same when one is repeated."
    run = begin(config=TrainingConfig(epochs=1, **FEW, crop=152))
    x = torch.arange(300.).expand(2, 3, 300)
    starts = []
    for run.step in range(20): starts.append(int(run._cropped(x)[0, 0, 0]))
    assert len(set(starts)) > 5 and max(starts) <= 148
    run.step = 7
    assert int(run._cropped(x)[0, 0, 0]) == starts[7] and run._cropped(x).shape == (2, 3, 152)
    run.lock.release()
    with pytest.raises(ValueError, match="crop is at most a window's length"):
        begin(config=TrainingConfig(crop=10_000))


def test_a_way_of_hiding_of_ones_own_is_a_class_and_a_name(begin, store, monkeypatch):
    class Front(SphereMask):
        "Hide what lies in front."
        def __init__(self, montage, radius):
            super().__init__(montage, radius)
            self.table = torch.from_numpy(montage.positions[None, :, 1] > radius)

    monkeypatch.setitem(MASKS, "front", Front)
    (draw, _), = montage_masks(store, store.montage, "front", .6)
    assert isinstance(draw, Front)
    begin(config=replace(CONFIG, mask="front", epochs=1)).run()
    with pytest.raises(ValueError, match="or front, not 'back'"):
        montage_masks(store, store.montage, "back")


def test_steps_are_filled_with_whole_epochs(begin):
    run = begin(config=TrainingConfig(steps=5, **FEW))
    assert run.steps >= 5 > run.steps - run.batches_per_epoch
    assert run.steps % run.batches_per_epoch == 0
    run.lock.release()


@pytest.mark.parametrize("select,best", [("relative", 2), ("loss", 0)])
def test_the_best_epoch_is_chosen_by_the_rule_that_was_asked_for(begin, monkeypatch, select, best):
    """A loss that rises because the targets come to hold more: the paper's rule keeps the first
    epoch, the ratio the last."""
    usual, seen = pretraining.validate, iter([(.2, .2), (.4, .6), (.3, .6)])

    def validate(*args, **kwargs):
        loss, positional = next(seen)
        return usual(*args, **kwargs) | dict(loss=loss, positional=positional)

    monkeypatch.setattr(pretraining, "validate", validate)
    run = begin(config=TrainingConfig(epochs=3, **FEW, select=select))
    run.run()
    assert run.best_epoch == best
    assert json.loads((run.folder / "run.json").read_text())["best_epoch"] == best + 1


@pytest.fixture
def few():
    "A model of other channels: some of the store's, and one that it lacks."
    names = ["Fz", "C3", "C4", "Oz", "AFz"]
    torch.manual_seed(5)
    return SJEPA(named_montage(names), SMALL)


def test_a_run_begins_from_weights(begin, few, tmp_path):
    with torch.no_grad(): few.target_encoder.norm.weight.fill_(3.)
    run = begin(model=None, weights=few)
    here, there = run.model.position, few.position
    names = run.model.montage.names
    assert set(names) == {*run.store.montage.names, "AFz"}
    rows = run.model.montage.index(few.montage.names)
    assert torch.equal(here.spatial[rows], there.spatial)
    f3 = run.model.montage.index(["F3"])   # known by neither name nor place: from coordinates
    place = run.model.montage.positions[f3]
    assert torch.allclose(here.spatial[f3], few.position.rows_at(place), atol=1e-6)
    for name, value in few.state_dict().items():
        if name != "position.spatial": assert torch.equal(run.model.state_dict()[name], value)
    before = few.state_dict()["encoder.norm.weight"].clone()
    run.run()
    assert torch.equal(few.state_dict()["encoder.norm.weight"], before)   # a copy is trained
    afz = run.model.montage.index(["AFz"])
    assert torch.equal(run.model.position.spatial[afz], there.spatial[[4]])   # nobody recorded it
    kept = SJEPA.load(tmp_path / "run" / "start.safetensors")
    assert repr(kept) == repr(few)
    with pytest.raises(ValueError, match="weights: .* then, None now"): begin(resume=True)
    assert begin(model=None, weights=kept, resume=True).step == run.step


def test_weights_of_another_model_are_refused(begin, few, tmp_path):
    with pytest.raises(ValueError, match="of another model .hidden 128, not 64."):
        begin(model=replace(SMALL, hidden=128), weights=few)
    with pytest.raises(TypeError, match="weights is"): begin(model=None, weights=SMALL)
    with pytest.raises(FileNotFoundError, match="'nobody'"): begin(model=None, weights="nobody")
    assert not (tmp_path / "run").exists()


def test_the_command_goes_on_from_weights_that_have_gone(few, tmp_path, capsys):
    "Torn after its first epoch and resumed without the file of weights, it ends as if undisturbed."
    given, outs = tmp_path / "given.safetensors", [tmp_path / name for name in ("whole", "torn")]
    few.save(given)
    one = [*COMMAND, "--subjects", "1", "--weights", str(given)]
    at = one.index("--valid-subjects")
    del one[at:at + 2]
    assert sjepa_pretrain([*one, "--out", str(outs[0])]) == 0
    said = capsys.readouterr().out
    assert "Simulated/1 alone: the last 15% of each recording validate" in said
    assert "of what it began with is left" in said
    p = Command(*one, "--out", outs[1])
    while rows_of(outs[1]) < 4 and p.poll() is None: time.sleep(.02)
    p.kill()
    p.communicate()
    given.unlink()
    go_on(outs[1])
    assert_same_run(*outs)
    assert sjepa_pretrain([*one, "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
    assert sjepa_pretrain([*COMMAND, "--weights", "simulated", "--registers", "2",
                           "--out", str(tmp_path / "new")]) == 2
    assert "registers 0, not 2: its size and switches come with it" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
