"""Wrong commands, wrong calls from Python and damaged files: each must be refused in words.

    python benchmarks/robustness.py --kind commands calls files
    python benchmarks/robustness.py --again  # what the table says has failed, and what it has not

Each case runs in a copy of this process, for at most 30 seconds, with at most 2 GB more than the
libraries take. A command has to leave with code 2 and one line on stderr, and nothing in its folder
that counts as a run. A call from Python has to raise ValueError, TypeError or OSError, in one line
(several only where several recordings are named), with the words that stand beside it. What a
damaged file leads to has to name the file. A row for each case goes to results/robustness.csv.
"""
import argparse
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import mne
import numpy as np
import pandas as pd
import torch
import moabb.paradigms  # noqa: F401  (what the cases need is loaded once)

import sjepa_nb
from sjepa_nb import command_line, evaluation, preprocessing, runs, weights

RESULTS = Path(__file__).resolve().parent.parent / "results" / "robustness.csv"
SECONDS, MEGABYTES = 30, 2000  # that a case may take
MARKS = "checkpoint*.pt", "*.safetensors", "epochs.csv"  # of a run

# ---------------------------------------------------------------- a case

class Outcome(NamedTuple):
    "How a case ended."
    code: int  # of a command, or of `call`; -14: it took too long
    seconds: float
    megabytes: float  # that it took beside what was loaded before
    message: str  # what went to stderr


def attempt(work):
    "`work()`, whose value is an exit code, in a copy of this process."
    before, start = own_megabytes(), time.monotonic()
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if not pid: in_the_copy(work, said)
        _, status, used = os.wait4(pid, 0)
        with contextlib.suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
        said.seek(0)
        message = said.read().decode(errors="replace").strip()
    more = max(0, used.ru_maxrss / 1024 - before)
    return Outcome(os.waitstatus_to_exitcode(status), time.monotonic() - start, more, message)


def own_megabytes():
    "What this process holds."
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def in_the_copy(work, said):
    "Never returns."
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    signal.alarm(SECONDS)
    code = 1
    try: code = work()
    except SystemExit as e: code = e.code
    except BaseException: traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def command(words):
    "A command as a shell would give it."
    name, *options = shlex.split(words)
    return lambda: getattr(command_line, "sjepa_" + name)(options)


def call(text):
    "An expression of Python: code 0 where it has a value, 2 for an error that explains itself."
    def work():
        try:
            with contextlib.redirect_stderr(io.StringIO()): eval(text, names())
        except (ValueError, TypeError, OSError) as e:
            print(f"{type(e).__name__}: {e}", file=sys.stderr)
            return 2
        return 0
    return work


def lines(message):
    "A message without the usage that argparse puts before it."
    kept = message.splitlines()
    while kept and kept[0].startswith(("usage: ", "       ")): kept.pop(0)
    return kept


def fault(outcome, words=(), several=False):
    "What is wrong with how a case ended; nothing where it passed."
    if outcome.code == -signal.SIGALRM: return f"still at work after {SECONDS} s"
    if outcome.code != 2: return f"code {outcome.code}"
    if outcome.megabytes > MEGABYTES: return f"{outcome.megabytes:.0f} MB"
    if not several and len(lines(outcome.message)) != 1: return "not one line"
    lost = [w for w in words if w not in outcome.message]
    return f"does not say {' or '.join(lost)}" if lost else ""


def is_run(folder):
    "Whether a folder holds what a later command would go on with."
    table = folder / "results.csv"
    scores = table.exists() and (evaluation.read_results(table).error == "").any()
    return scores or any(next(folder.glob(mark), None) for mark in MARKS)


# ---------------------------------------------------------------- wrong commands

SMALL = ("--dataset simulated --subjects 1 2 --valid-subjects 2 --length 1 --interval 25 "
         "--epochs 1 --precision float32 --quiet")
TRIALS = "--subjects 11 --paradigm MI --trials 20 48 20 --folds 2"
COMMANDS = {
    f"pretrain {SMALL} --out out": """
--device mps
--device xpu
--device meta
--device cuda:99
--device nothing
--seed -1
--seed 99999999999999999999999999
--seed 1.5
--jobs 0
--subjects 1 1 2
--subjects x
--subjects 0
--subjects 1
--valid-subjects 2 2
--valid-subjects 1 2
--valid-subjects 7
--test-subjects 99
--test-subjects 2
--valid-share 0
--valid-share 1
--length 100000
--length 2.5
--length -1
--length nan
--interval 0
--interval inf
--interval 1e-9
--band 40 1
--band 0 40
--band 1 64
--batch-size 0
--radius -1
--radius nan
--mask 'fixed budget' --radius inf
--epochs 0
--steps 0
--learning-rate 0
--learning-rate nan
--predictor-rate -1
--warmup 2
--final-rate -1
--weight-decay -1
--betas 1 1
--momentum .9 2
--clip 0
--patience 0
--select probe
--select best
--crop 0
--crop .5
--crop 2
--dropout nan
--dropout 1
--size 3/3/3
--target-norm x
--profile -1
--workers -1
--checkpoint-minutes -1
--dataset
--dataset simulated simulated
--dataset Nothing
--dataset ''
--store ''
--out ''
--recordings
--recordings ''
--recordings gone.edf
--recordings empty
--recordings notes.edf
--recordings notes.edf empty.edf
--recordings S001.edf S001.edf
--subject-regex '('
--subject-regex S
--probe nothing
--probe simulated --probe-subjects 1
--probe simulated --probe-subjects x
--probe simulated --probe-subjects 0
--probe Kalunga2016
--probe PhysionetMI --probe-subjects 400
--resume
--out run
--out file
--store file
--store run/windows.zarr
--out run --resume --radius .3
--nothing
""",
    "pretrain --out out": """

--recordings S001.edf --valid-subjects 3
--recordings S001.edf --length 1 --epochs 1
--recordings S001.edf S002.edf --subjects 1
--recordings S001.edf S002.edf --length 60
""",
    f"finetune {TRIALS} --out out": """
--device mps
--device cuda:99
--seed -1
--seed 4294967296
--subjects 11 11
--subjects x
--subjects 0
--subjects -1
--trials 0 0 0
--trials 1 1 1
--trials -5 4 4
--effect nan
--effect -1
--folds 0
--folds 1
--folds 1000
--epochs 0
--patience 0
--weights nobody/nothing
--weights gone.safetensors
--weights simulated physionet
--weights .
--weights S001.edf
--weights baselines=simulated
--weights a/b=simulated
--events left_hand
--events left_hand nothing --dataset PhysionetMI
--dataset
--dataset Nothing
--paradigm P
--head x
--strategy probe
--norm x
--band 40 1
--band 1 64
--filters x
--scale standardise
--recordings S001.edf
--recordings S001.edf --events a=1 b=2
--recordings gone.edf --events a=1 b=2
--out file
--out sweep
""",
    f"evaluate {TRIALS} --heads pre-local --strategies probe --no-baselines --quiet --out out": """
--device xpu
--seed -1
--seed 4294967296
--jobs 0
--subjects 11 11
--subjects x
--folds 1
--folds 1000
--train-trials 0
--train-trials -4
--train-trials 100000
--heads pre-local pre-local
--heads x
--heads contextual
--heads post-local
--strategies x
--full-contextual-epochs 0
--weights a=simulated a=physionet
--weights no-pre-training=simulated
--weights gone/run
--weights mine=
--dataset PhysionetMI --subjects 1 --events left_hand left_hand
--recordings S001.edf --paradigm ERP
--out file
--out run/run.json/x
--out sweep --folds 3
""",
    "demo --quiet --out out": """
--subjects 12 12
--subjects 1
--subjects x
--steps 0
--steps -1
--seed 1
--seed -2
--seed 4294967296
--out ''
--out file
""",
    "plot --out out": """

nothing
empty
. .
file
sweep run gone
""",
}


def commands():
    "Each command with each of its wrong options."
    for base, options in COMMANDS.items():
        for more in options[1:-1].split("\n"):
            words = f"{base} {more}".strip()
            yield words, partial(try_command, words)


def try_command(words):
    "One wrong command."
    before = {f: contents(f) for f in (Path("run"), Path("sweep"))}
    outcome = attempt(command(words))
    wrong = fault(outcome, several=words.count(".edf") > 1)
    out = Path("out")
    if not wrong and is_run(out): wrong = "leaves a run"
    if before != {f: contents(f) for f in before}: wrong = "changes another run"
    if out.exists(): shutil.rmtree(out)
    return outcome, wrong


def contents(folder):
    "Names, sizes and times of files."
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.endswith(".lock")]
    return [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]


# ---------------------------------------------------------------- wrong calls from Python

CALLS = """
Montage(["Cz"], [[0, 0, 1], [0, 1, 0]]) | 1 names for 2 positions
Montage(["Cz", "Cz"], [[0, 0, 1], [0, 1, 0]]) | duplicate
Montage(["Cz"], [[0, 0, float("nan")]]) | without a position: Cz
Montage(["Cz"], [0, 1]) | reshape
Montage([], []) | channel
Preprocessing(reference="Cz") | reference
Preprocessing(l_freq=50.) | l_freq
Preprocessing(l_freq=float("nan")) | l_freq
Preprocessing(l_freq="1") | l_freq
Preprocessing(h_freq=200.) | h_freq
Preprocessing(h_freq=None) | h_freq
Preprocessing(sfreq=0.) | sfreq
Preprocessing(scale="x") | scale
Preprocessing(unit="pV") | unit
Preprocessing(bad_channels="x") | bad_channels
Preprocessing(on_missing="x") | on_missing
find_dataset("Nothing") | Nothing
find_dataset(3) | name
find_dataset(None) | name
moabb_sources("Kalunga2016", [99]) | 99
moabb_sources(3) | dataset
moabb_sources(None) | dataset
file_sources([]) | no files
file_sources("gone.edf") | gone.edf
file_sources(["gone.edf"]) | gone.edf
file_sources([3]) | PathLike
file_sources(3) | PathLike
file_sources(["S001.edf"], preprocessing="average") | preprocessing
file_sources(["S001.edf"], "(") | regular expression
file_sources(["S001.edf"], 3) | subject_regex
WindowStore("gone.zarr") | gone.zarr
WindowStore("run") | run is not a window store
WindowStore(3) | PathLike
build_store("new.zarr", [], 152) | no sources
build_store("new.zarr", sources, 0) | length
build_store("new.zarr", sources, -1.) | length
build_store("new.zarr", sources, "1") | length
build_store("new.zarr", sources, 152, 0) | interval
build_store("new.zarr", sources, 152, float("nan")) | interval
build_store("new.zarr", ["S001.edf"], 152) | file_sources
build_store("new.zarr", "S001.edf", 152) | file_sources
build_store("new.zarr", sources, 152, "x") | interval
build_store("new.zarr", [*sources, *sources], 152) | twice
build_store("new.zarr", sources, 152, preprocessing="average") | preprocessing
build_store("new.zarr", sources, 152, n_jobs=0) | n_jobs
build_store("new.zarr", sources, 152, n_jobs="2") | n_jobs
build_store("file", sources, 152) | file
split_by_subject(store.index, 2.) | fraction
split_by_subject(store.index, 0.) | fraction
split_by_subject(store.index, ["99"]) | 99
split_by_subject(store.index, ["1", "2"]) | subjects
split_by_subject(store.index, ["1"], ["1"]) | two parts
split_by_subject(store.index.drop(columns="subject"), .5) | subject
split_by_subject(None, .5) | index
load_trials("Nothing", "MI") | Nothing
load_trials(3, "MI") | dataset
load_trials(simulated, "P300") | paradigm
load_trials(simulated, "MI", [99]) | 99
load_trials(simulated, "MI", [1], length=0) | length
load_trials(simulated, "MI", [1], length="1") | length
load_trials(simulated, "MI", 1.5) | subjects
load_trials(simulated, "MI", [1], preprocessing="average") | preprocessing
load_trials(simulated, "MI", [1], events=["x"]) | left_hand
load_trials(simulated, "MI", [1], n_classes=9) | left_hand
FileDataset([], "MI", {"a": "b"}) | no files
FileDataset(["S001.edf"], "x", {"a": "b"}) | paradigm
FileDataset(["S001.edf"], "MI", {}) | events
FileDataset(["S001.edf"], "MI", ["a"]) | events
FileDataset(["S001.edf"], "MI", {"a": "b"}, seconds=-1) | seconds
FileDataset(["S001.edf"], "MI", {"a": "b"}, seconds="1") | seconds
EpochsFiles([], "MI") | no files
EpochsFiles(["S001.edf"], "MI") | S001.edf
EpochsFiles("S001.edf", "MI") | S001.edf
EpochsFiles(3, "MI") | PathLike
simulated_datasets(0) | n_subjects
simulated_datasets("2") | n_subjects
simulated_datasets(2, n_trials=3) | n_trials
simulated_datasets(2, seed=-1) | seed
simulated_datasets(2, effect=float("nan")) | effect
simulated_datasets(2, sfreq=10) | sfreq
SphereMask(montage, -1) | radius
SphereMask(montage, float("nan")) | radius
SphereMask(montage, "x") | radius
SphereMask(few) | channel
SphereMask(montage, max_share=0.) | max_share
SphereMask(62) | montage
FixedBudgetMask(montage, n_visible=60) | budget
FixedBudgetMask(montage, n_hidden=0) | n_hidden
FixedBudgetMask(montage, n_hidden="8") | n_hidden
FixedBudgetMask(62) | montage
plot_masks(montage, centres=["x"]) | x
SJEPAConfig(depth=0) | depth
SJEPAConfig(depth="8") | depth
SJEPAConfig(heads=7) | heads
SJEPAConfig(heads=0) | heads
SJEPAConfig(width=-64) | width
SJEPAConfig(hidden=0) | hidden
SJEPAConfig(predictor_depth=0) | predictor_depth
SJEPAConfig(dropout=2.) | dropout
SJEPAConfig(dropout="x") | dropout
SJEPAConfig(average_layers="4") | average_layers
SJEPAConfig(target_norm="x") | target_norm
SJEPAConfig.preset("x") | size
SJEPA(62) | montage
SJEPA(montage, dict(depth=1)) | config
SJEPA.load("gone.safetensors") | gone.safetensors
SJEPA.load("S001.edf") | S001.edf
SJEPA.from_pretrained("nothing") | nothing
model.save("no/such/folder/x.safetensors") | no/such/folder
TrainingConfig(epochs=0) | epochs
TrainingConfig(epochs=1.5) | epochs
TrainingConfig(epochs="x") | epochs
TrainingConfig(batch_size="32") | batch_size
TrainingConfig(learning_rate=float("nan")) | learning_rate
TrainingConfig(learning_rate="1") | learning_rate
TrainingConfig(warmup=None) | warmup
TrainingConfig(radius=None) | radius
TrainingConfig(seed="x") | seed
TrainingConfig(momentum=(2., 3.)) | momentum
TrainingConfig(momentum=.9) | momentum
TrainingConfig(mask="x") | mask
TrainingConfig(betas=(1., 1.)) | betas
TrainingConfig(betas=("a", "b")) | betas
Pretraining(store, split, "run") | run
Pretraining("store", split, "new") | store
Pretraining(store, {}, "new") | no windows to train on
Pretraining(store, [0, 1], "new") | split
Pretraining(store, dict(train=[], valid=[0]), "new") | train
Pretraining(store, dict(train=[0], valid=[10**9]), "new") | valid
Pretraining(store, split, "new", dict(epochs=1)) | config
Pretraining(store, split, "new", model_config="8/8/2048") | model_config
Pretraining(store, split, "new", device="xpu") | xpu
Pretraining(store, split, "new", device="cuda:99") | cuda:99
Pretraining(store, split, "new", device=3) | device
Pretraining(store, split, "new", small, resume=True) | new
plot_pretraining("empty") | empty
plot_pretraining() | folder
SJEPAClassifier("gone").fit(X, y) | gone
SJEPAClassifier(3).fit(X, y) | weights
SJEPAClassifier(head="x").fit(X, y) | head
SJEPAClassifier(strategy="x").fit(X, y) | strategy
SJEPAClassifier(epochs=0).fit(X, y) | epochs
SJEPAClassifier(epochs=2.5).fit(X, y) | epochs
SJEPAClassifier(learning_rate=-1).fit(X, y) | learning_rate
SJEPAClassifier(learning_rate="x").fit(X, y) | learning_rate
SJEPAClassifier(dropout=None).fit(X, y) | dropout
SJEPAClassifier(batch_size=0).fit(X, y) | batch_size
SJEPAClassifier(validation=2.).fit(X, y) | validation
SJEPAClassifier(validation=None).fit(X, y) | validation
SJEPAClassifier(virtual_channels=0).fit(X, y) | virtual_channels
SJEPAClassifier(random_state=-1).fit(X, y) | random_state
SJEPAClassifier(device="x").fit(X, y) | device
SJEPAClassifier(device="xpu").fit(X, y) | device
SJEPAClassifier(channels=62).fit(X, y) | channels
SJEPAClassifier(head="contextual").fit(X, y) | channels
SJEPAClassifier(channels=["Cz"]).fit(X, y) | channels
SJEPAClassifier().fit(X, y[:-1]) | labels
SJEPAClassifier().fit(X, [0] * len(X)) | class
SJEPAClassifier().fit(X[:0], y[:0]) | 0 sample
SJEPAClassifier().fit(X[0], y) | trials
SJEPAClassifier().fit(X[:, :, :20], y) | samples
SJEPAClassifier().fit(X * 1e-6, y) | microvolts
SJEPAClassifier().fit(X * np.nan, y) | NaN
SJEPAClassifier().fit(None, y) | 
SJEPAClassifier().predict(X) | not fitted
fitted.predict(X[:, :-1]) | channels
fitted.predict(X[:, :, :-1]) | samples
fitted.predict(X[:0]) | 0 sample
fitted.predict(X * np.inf) | infinity
SJEPAClassifier().save("x.safetensors") | not fitted
SJEPAClassifier.load("run/model.safetensors") | model.safetensors
SJEPAClassifier.load("gone") | gone
SJEPAClassifier.load("gone", device="xpu") | xpu
SJEPAFeatures(encoder="x").fit(X) | encoder
SJEPAFeatures(mean="x").fit(X) | mean
SJEPAFeatures(batch_size=0).fit(X) | batch_size
SJEPAFeatures(device="xpu").fit(X) | xpu
SJEPAFeatures(encoder="local", filters="x").fit(X, y) | filters
SJEPAFeatures(encoder="local", filters="csp").fit(X) | y
SJEPAFeatures(encoder="local", filters="csp", virtual_channels=0).fit(X, y) | virtual_channels
SJEPAFeatures().transform(X) | not fitted
sjepa_probe(filters="x").fit(X, y) | filters
sjepa_probe(norm="x").fit(X, y) | norm
sjepa_probe(device="xpu").fit(X, y) | xpu
Task("x", "PhysionetMI") | paradigm
Task("MI", "PhysionetMI", subjects=3.5) | subjects
simulated_tasks([]) | subjects
simulated_tasks([0]) | subject
simulated_tasks(3.5) | subjects
simulated_tasks("x") | subjects
evaluate([], {}, "new") | tasks
evaluate(tasks, {}, "new", with_baselines=False) | nothing to evaluate
evaluate(tasks, None, "new") | pretrainings
evaluate(3, {"a": None}, "new") | tasks
evaluate(["MI"], {"a": None}, "new") | tasks
evaluate([Task("MI", 3, [1])], {"a": None}, "new") | dataset
evaluate(tasks, {"a": 3}, "new") | weights
evaluate(tasks, {"a": "gone"}, "new") | gone
evaluate(tasks, {"baselines": None}, "new") | baselines
evaluate(tasks, {"a": None}, "new", heads=["x"]) | head
evaluate(tasks, {"a": None}, "new", strategies=["x"]) | strategy
evaluate(tasks, {"a": None}, "new", folds=1) | folds
evaluate(tasks, {"a": None}, "new", folds="2") | folds
evaluate(tasks, {"a": None}, "new", n_jobs=0) | n_jobs
evaluate(tasks, {"a": None}, "new", train_trials=0) | train_trials
evaluate(tasks, {"a": None}, "new", train_trials="x") | train_trials
evaluate(tasks, {"a": None}, "new", nothing=1) | nothing
evaluate(tasks, {"a": None}, "sweep") | sweep
summarise(table[:0]) | table
summarise(store.index) | table
summarise(None) | table
rank_pipelines(store.index) | table
plot_ranking(store.index) | table
plot_scores(table[:0]) | table
to_moabb(store.index) | table
compare(table, "x", "y") | x
compare(table[:0], "x", "y") | table
compare(store.index, "x", "y") | table
from_pretrained("gone") | gone
from_pretrained("run/model.safetensors") | model.safetensors
from_pretrained("hub", montage=few) | montage
from_pretrained("hub", montage=62) | montage
save_pretrained(model, "file") | file
save_pretrained("run", "new") | model
to_braindecode("run") | model
load_braindecode("run", {}) | model
preprocess("S001.edf") | raw
"""


def names():
    "What the expressions may name: all public names, and what was made for them."
    found = {name: getattr(sjepa_nb, name) for name in sjepa_nb.__all__}
    for module in (evaluation, preprocessing, weights): found |= vars(module)
    return found | MADE | dict(np=np)


MADE = {}


def python_objects():
    "A store, a model, trials and a classifier to call wrongly."
    from sjepa_nb import Montage, SJEPA, SJEPAClassifier, TrainingConfig, WindowStore, file_sources
    from sjepa_nb import lee2019_montage, simulated_datasets, simulated_tasks, split_by_subject
    MADE.update(store=WindowStore("run/windows.zarr"), model=SJEPA.load("run/model.safetensors"),
                sources=file_sources(["S001.edf", "S002.edf"]), montage=lee2019_montage(),
                simulated=simulated_datasets(1, n_trials=(20, 48, 20))[0],
                small=TrainingConfig(epochs=1), few=Montage(["Cz"], [[0, 0, 1]]),
                tasks=simulated_tasks([11], (20, 48, 20))[:1],
                table=evaluation.read_results("sweep/results.csv"))
    MADE["split"] = split_by_subject(MADE["store"].index, ["2"])
    MADE["X"] = 10 * np.random.default_rng(0).standard_normal((20, 62, 152))
    MADE["y"] = np.array([0, 1] * 10)
    MADE["fitted"] = SJEPAClassifier(epochs=1).fit(MADE["X"], MADE["y"])


def calls():
    "Each expression, and the words that its error has to say."
    python_objects()
    for line in CALLS.strip().splitlines():
        text, _, words = line.partition(" | ")
        yield text, partial(try_call, text, words)


def try_call(text, words):
    "One wrong call."
    outcome = attempt(call(text))
    wrong = fault(outcome, [words])
    if not wrong and is_run(Path("new")): wrong = "leaves a run"
    for left in ("new", "new.zarr", "new.zarr.partial"): shutil.rmtree(left, ignore_errors=True)
    return outcome, wrong


# ---------------------------------------------------------------- damaged files

def empty(data): return b""
def half(data): return data[:len(data) // 2]
def foreign(data): return b"neither of this package nor of its libraries\n" * 40
def zeros(data): return bytes(len(data))
def a_list(data): return b"[1, 2]"
def a_number(data): return b"7"
def deep(data): return b"[" * 10**5
def header_of_gigabytes(data): return (2**40).to_bytes(8, "little") + data[8:]
def other_keys(data): return b'{"nothing": 1}'


def flipped(data):
    "One bit in the middle is another."
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 64]) + data[at + 1:]


def last_line_cut(data):
    "The last line of a table is half there."
    return data[:-len(data.splitlines()[-1]) // 2]


def words_for_numbers(data):
    "A table whose numbers are none."
    first, *rows = data.decode().splitlines()
    return "\n".join([first, *(",".join(["x"] * len(row.split(","))) for row in rows)]).encode()


def deep_model(data):
    "A header that tells of a hundred thousand layers."
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8:8 + size])
    about = head["__metadata__"]
    for key in ("config", "fitted"):
        if key in about: about[key] = json.dumps(deeper(json.loads(about[key])))
    head = json.dumps(head).encode()
    return len(head).to_bytes(8, "little") + head + data[8 + size:]


def deeper(value):
    "The same, with each depth a hundred thousand."
    if not isinstance(value, dict): return value
    return {k: 10**5 if k == "depth" else deeper(v) for k, v in value.items()}


def deep_config(data): return json.dumps(deeper(json.loads(data))).encode()


def far_channels(data):
    "An EDF header with 9999 channels."
    return data[:252] + b"9999" + data[256:]


def no_rate(data):
    "An EDF header with records of no length."
    return data[:244] + b"0       " + data[252:]


JSON = empty, half, foreign, a_list, a_number, deep, other_keys
TABLE = foreign, words_for_numbers
TENSORS = empty, half, foreign, zeros, header_of_gigabytes, deep_model
GO_ON = "pretrain --resume --out here"
SCORE = f"evaluate {TRIALS} --heads pre-local --strategies probe --no-baselines --quiet --out here"
TUNE = f"finetune {TRIALS} --head contextual --epochs 1 --out here"
READ_EDF = "pretrain --recordings here S002.edf --epochs 1 --length 1 --out out"
FILES = [  # file, what reads it, how it is damaged; `here` is a copy of the folder or file
    ("S001.edf", READ_EDF, (empty, half, foreign, zeros, far_channels, no_rate)),
    ("S001_raw.fif", READ_EDF, (empty, foreign, zeros)),
    ("run/command.json", GO_ON, JSON[:-1]),
    ("run/checkpoint*.pt", GO_ON, (empty, half, foreign, zeros)),
    ("run/run.json", "plot here --out out", (foreign, a_list)),
    ("run/epochs.csv", "plot here --out out", (empty, *TABLE)),
    ("run/steps.csv", "plot here --out out", (empty, *TABLE)),
    ("run/windows.zarr/zarr.json", "call WindowStore('here/windows.zarr')", JSON),
    ("run/windows.zarr/*/windows/zarr.json", "call WindowStore('here/windows.zarr')[0]",
     (empty, half, foreign, a_list)),
    ("run/windows.zarr/*/windows/c/0/0/0", "call WindowStore('here/windows.zarr')[0]",
     (empty, half, foreign, flipped)),
    ("run/model.safetensors", "call SJEPA.load('here/model.safetensors')", TENSORS),
    ("run/model.safetensors", f"finetune {TRIALS} --weights here --out out", (half, deep_model)),
    ("mine/*.safetensors", "call SJEPAClassifier.load('FILE')", TENSORS),
    ("hub/config.json", "call from_pretrained('here')", (*JSON[:-1], deep_config)),
    ("hub/model.safetensors", "call from_pretrained('here')", TENSORS[:-1]),
    ("sweep/results.csv", SCORE, (empty, half, *TABLE)),
    ("sweep/results.csv", "plot here --out out", (empty, *TABLE)),
    ("sweep/sweep.json", SCORE, JSON),
    ("mine/results.csv", TUNE, (foreign, words_for_numbers)),
    ("mine/sweep.json", TUNE, (empty, half, a_list)),
]


def files():
    "Each file, damaged in each way."
    for pattern, reader, damages in FILES:
        for damage in damages:
            case = f"{pattern}, {damage.__name__}: {reader.split(' --')[0]}"
            yield case, partial(try_file, pattern, reader, damage)


def try_file(pattern, reader, damage):
    "One file, damaged in one way, in a copy of its folder."
    top, _, rest = pattern.partition("/")
    here = Path("here") if rest else Path("here").with_suffix(Path(pattern).suffix)
    if rest: shutil.copytree(top, here)
    else: shutil.copy(top, here)
    damaged = sorted(here.glob(rest)) if rest else [here]
    for file in damaged: file.write_bytes(damage(file.read_bytes()))
    reader = reader.replace("FILE", str(damaged[0]))
    if not rest: reader = reader.replace("here", str(here))
    python = reader.startswith("call ")
    outcome = attempt(call(reader.removeprefix("call ")) if python else command(reader))
    # of many parts the whole is named
    name = here.name if not rest or "zarr" in rest or "*" in rest else damaged[0].name
    wrong = fault(outcome, [name], several="edf" in reader or "fif" in reader)
    for path in (here, Path("out")):
        if path.is_dir(): shutil.rmtree(path)
        else: path.unlink(missing_ok=True)
    return outcome, wrong


# ---------------------------------------------------------------- what the cases find there

PLACES = "Fp1 Fp2 F3 F4 F7 F8 C3 Cz C4 T7 T8 P3 P4 Pz O1 O2".split()


def recording(seconds=30, sfreq=128):
    "Noise of 16 channels that is smooth in time, in volts."
    x = np.random.default_rng(0).standard_normal((len(PLACES), seconds * sfreq))
    x = np.convolve(x.ravel(), np.ones(8) / 8, "same").reshape(x.shape)
    return mne.io.RawArray(20e-6 * x / x.std(), mne.create_info(PLACES, sfreq, "eeg"))


def write_edf(path, raw):
    "An EDF file of 16 bits with records of one second."
    sfreq, n = int(raw.info["sfreq"]), len(raw.ch_names)
    records = len(raw.times) // sfreq
    cell = lambda value, width: str(value).ljust(width).encode()
    fields = [(0, 8), ("X X X X", 80), ("Startdate X X X X", 80), ("01.01.20", 8), ("00.00.00", 8),
              (256 * (n + 1), 8), ("", 44), (records, 8), (1, 8), (n, 4)]
    columns = [(raw.ch_names, 16), ([""] * n, 80), (["uV"] * n, 8), ([-3276.8] * n, 8),
               ([3276.7] * n, 8), ([-32768] * n, 8), ([32767] * n, 8), ([""] * n, 80),
               ([sfreq] * n, 8), ([""] * n, 32)]
    head = [cell(*f) for f in fields] + [cell(v, width) for col, width in columns for v in col]
    x = np.round(raw.get_data() * 1e7).astype("<i2").reshape(n, records, sfreq)
    path.write_bytes(b"".join(head) + x.transpose(1, 0, 2).tobytes())


def make_world():
    "Recordings, a run, a sweep, fine-tuned classifiers, a folder of the hub's layout."
    from sjepa_nb import SJEPA, save_pretrained
    for name in ("S001", "S002"): write_edf(Path(f"{name}.edf"), recording())
    recording().save("S001_raw.fif")
    Path("notes.edf").write_text("no recording\n" * 100)
    Path("empty.edf").touch()
    Path("file").write_text("a file")
    Path("empty").mkdir()
    begin = f"pretrain {SMALL} --interval 10 --batch-size 8 --epochs 2 --size 2/8/64 --out run"
    probe = SCORE.replace("here", "sweep")
    tune = TUNE.replace("here", "mine")
    for words in (begin, probe, tune):
        with contextlib.redirect_stdout(None): code = command(words)()
        if code: raise SystemExit(f"{words} failed with code {code}")
    save_pretrained(SJEPA.load("run/model.safetensors"), "hub")


# ---------------------------------------------------------------- all of it

KINDS = dict(commands=commands, calls=calls, files=files)


def run_case(kind, case, work):
    "Its row; what is wrong is shown."
    outcome, wrong = work()
    if wrong: print(f"{kind}: {case}\n    {wrong}: {outcome.message[-1500:]}", flush=True)
    message = " / ".join(lines(outcome.message)[-3:])[:300].replace(os.getcwd(), "…")
    message = re.sub(r"/\S*/site-packages", "…", message)   # where Python lies is nobody's business
    return dict(kind=kind, case=case, passed=not wrong, wrong=wrong, message=message,
                seconds=round(outcome.seconds, 1), megabytes=round(outcome.megabytes))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kind", nargs="+", choices=KINDS, default=[*KINDS])
    p.add_argument("--again", action="store_true", help="keep what has passed before")
    p.add_argument("--out", type=Path, default=RESULTS)
    a = p.parse_args()
    a.out, before = a.out.resolve(), {}
    if a.again:
        known = pd.read_csv(a.out, keep_default_na=False)
        known = known[known.passed].to_dict("records")
        before = {(row["kind"], row["case"]): row for row in known}
    os.environ.update(HF_HUB_OFFLINE="1", MOABB_DOWNLOAD_PROVIDER="upstream")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)   # a copy of a process with several would wait for them
    table, home = [], os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(_MNE_FAKE_HOME_DIR=folder, MNE_DATA=folder)
        os.chdir(folder)
        runs.quieten()
        make_world()
        for kind in a.kind:
            for case, work in KINDS[kind]():
                table.append(before.get((kind, case)) or run_case(kind, case, work))
                pd.DataFrame(table).to_csv(a.out, index=False)
        os.chdir(home)
    table = pd.DataFrame(table)
    print(table.groupby("kind", sort=False).passed.agg(tried="size", passed="sum").to_string())


if __name__ == "__main__": main()
