"""The words of the commands: help at once, options and their classes, older spellings, the face."""
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import sjepa_nb
from commands import COMMAND, Command
from sjepa_nb import options, runs
from sjepa_nb.command_line import sjepa_pretrain
from sjepa_nb.evaluation import STRATEGIES, Task
from sjepa_nb.finetuning import SJEPAClassifier
from sjepa_nb.heads import HEADS
from sjepa_nb.model import PRESETS, SJEPAConfig
from sjepa_nb.options import Demo, Evaluate, Finetune, Plot, Pretrain
from sjepa_nb.preprocessing import Preprocessing
from sjepa_nb.pretraining import TrainingConfig

COMMANDS = [Pretrain, Finetune, Evaluate, Plot, Demo]
HEAVY = {"torch", "mne", "moabb", "numpy", "scipy", "pandas", "sklearn", "matplotlib"}
each_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__)


def heavy_imports(code):
    "What a new Python has imported after `code`, of what takes seconds."
    code = (f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\n"
            "print(*sys.modules, sep='\\n', file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stderr.split())


def every_option(command):
    groups = [options.options_of(base) for base in command.__bases__]
    return [*options.own_options(command), *sum(groups, [])]


# ---------------------------------------------------------------- at once

@pytest.mark.parametrize("name", ["pretrain", "finetune", "evaluate", "plot", "demo"])
def test_help_imports_nothing_heavy(name):
    code = f"from sjepa_nb.command_line import sjepa_{name} as command; command(['--help'])"
    assert heavy_imports(code) == set()


def test_the_package_imports_nothing_heavy():
    assert heavy_imports("import sjepa_nb; sjepa_nb.__version__; dir(sjepa_nb)") == set()


def test_a_heavy_import_would_be_seen():
    assert heavy_imports("import sjepa_nb; sjepa_nb.Montage") >= {"mne", "numpy"}


@each_command
def test_help_fits_a_hundred_columns(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = options.parser_of(command).format_help()
    assert max(map(len, text.splitlines())) <= 100
    silent = [o.name for o in every_option(command) if not o.help]
    assert set(silent) <= {"seed", "heads", "head"}  # their names and choices say it


# ---------------------------------------------------------------- options and classes

BORROWED = {Preprocessing: "preprocessing", TrainingConfig: "pretraining", SJEPAConfig: "model",
            Task: "evaluation"}


@pytest.mark.parametrize("cls", BORROWED, ids=lambda c: c.__name__)
def test_fields_are_read_as_they_are(cls):
    "Names, defaults and types of a dataclass; an expression is left as its source."
    read = options.read_options(BORROWED[cls], cls.__name__)
    assert [o.name for o in read] == [f.name for f in fields(cls)]
    for o, f in zip(read, fields(cls)):
        assert o.default == f.default or isinstance(o.default, str) and "FREQ" in o.default
        assert o.kind in (getattr(f.type, "__name__", ""), str(f.type).replace("NoneType", "None"))


def test_parameters_of_an_estimator_are_read_as_they_are():
    read = {o.name: o.default for o in options.read_options("finetuning", "SJEPAClassifier")}
    params = SJEPAClassifier().get_params()
    assert read == {k: params[k] for k in read}
    assert set(params) == set(read)


def test_every_command_can_be_made_of_its_defaults():
    for command in COMMANDS[:3] + COMMANDS[4:]: assert command.of({}).settings == {}
    everything = runs.every_default()
    assert runs.training_of(Pretrain.of(everything)) == TrainingConfig()
    assert runs.training_of(Pretrain()) == TrainingConfig()
    assert runs.preprocessing_of(Pretrain.of(everything)) == Preprocessing()
    assert runs.model_of(Pretrain.of(everything)) == SJEPAConfig.preset(Pretrain.size)


def test_choices_are_those_of_the_classes():
    kinds = {}
    for command in COMMANDS:
        for o in every_option(command):
            kinds[command, o.name] = options.argument(o.kind, o.default).get("choices")
    assert kinds[Evaluate, "heads"] == kinds[Finetune, "head"] == list(HEADS)
    assert kinds[Evaluate, "strategies"] == list(STRATEGIES)
    assert kinds[Finetune, "strategy"] == list(STRATEGIES[1:])
    assert kinds[Pretrain, "size"] == list(PRESETS)
    assert kinds[Evaluate, "paradigm"] == list(runs.PARADIGM_OF.values())


def test_a_comment_is_found_beside_or_above():
    lines = ["class A:", "    # one", "    # two", "    a: int = 1", "    b: int = 2  # three"]
    assert options._comment(lines, 3) == "one two" and options._comment(lines, 4) == "three"


def test_a_field_without_default_is_an_argument_without_dashes():
    folders = next(o for o in every_option(Plot) if o.name == "folders")
    assert folders[:3] == ("folders", "list[Path]", options.MISSING)
    assert options.parse(Plot, ["a", "b"])["folders"] == [Path("a"), Path("b")]


@pytest.mark.parametrize("command, words, says", [
    (Pretrain, "--subjects 1 2 1", "--subjects: 1 is given twice"),
    (Pretrain, "--dataset PhysionetMI PhysionetMI", "PhysionetMI is given twice"),
    (Pretrain, "--recordings a.edf ./a.edf", "a.edf is given twice"),
    (Evaluate, "--heads pre-local pre-local", "pre-local is given twice"),
    (Evaluate, "--weights run run", "run is given twice"),
    (Demo, "--subjects 12 12", "12 is given twice"), (Plot, "run run", "run is given twice"),
    (Pretrain, ["--out", ""], "--out: nothing is given"),
    (Pretrain, ["--dataset", " "], "--dataset: nothing is given"),
    (Finetune, ["--weights", ""], "--weights: nothing is given")])
def test_a_value_that_is_empty_or_given_twice(command, words, says, capsys):
    "An unset variable in a shell is an empty value: not this folder."
    words = words.split() if isinstance(words, str) else words
    with pytest.raises(SystemExit) as e: options.parse(command, words)
    assert e.value.code == 2 and says in capsys.readouterr().err


def test_numbers_may_be_equal():
    assert options.parse(Pretrain, "--betas .9 .9".split()) == dict(betas=[.9, .9])
    assert options.parse(Evaluate, "--trials 9 9 9".split()) == dict(trials=[9, 9, 9])


# ---------------------------------------------------------------- older spellings

@pytest.mark.parametrize("words, means", [
    ("--mask 0.6", dict(radius=.6)),
    ("--mask=.6 --mask-strategy fixed-budget", dict(radius=.6, mask="fixed budget")),
    ("--mask-strategy sphere", dict(mask="sphere")),
    ("--mask fixed-budget --radius .8", dict(mask="fixed budget", radius=.8)),
])
def test_older_spellings_of_the_mask(words, means):
    assert options.parse(Pretrain, words.split()) == means


def test_older_spelling_of_the_scale():
    for command in (Finetune, Evaluate):
        assert options.parse(command, ["--standardise"]) == dict(scale="standardise")


def test_a_run_of_before_is_resumed(undisturbed, tmp_path, capsys):
    "Its `command.json` calls the radius `mask`, and has no option that came later."
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    told = json.loads((out / "command.json").read_text())
    told["mask_strategy"], told["mask"] = told.pop("mask"), told.pop("radius")
    for name in ("warmup", "final_rate", "weight_decay", "betas", "clip"): del told[name]
    (out / "command.json").write_text(json.dumps(told))
    assert sjepa_pretrain(["--resume", "--quiet", "--out", str(out)]) == 0
    assert "finished: 2 epochs" in capsys.readouterr().out
    assert sjepa_pretrain(["--resume", "--mask", ".7", "--out", str(out)]) == 2
    assert "--radius 0.7 (was 0.6)" in capsys.readouterr().err


def test_what_a_run_is_told_is_written_down(undisturbed):
    told = json.loads((undisturbed / "command.json").read_text())
    assert told["radius"] == .6 and told["mask"] == "sphere" and told["momentum"] == [.99, .9995]
    assert not set(told) & {"settings", *runs.LOCAL}
    assert set(told) | set(runs.LOCAL) == set(runs.every_default())


def test_sources_are_listed_once(tmp_path, monkeypatch):
    "Each file is opened to see whether it can be read; a second look would take as long again."
    seen = []
    monkeypatch.setattr(runs, "moabb_sources", lambda *a: seen.append(a) or [])
    assert sjepa_pretrain([*COMMAND, "--out", str(tmp_path / "run")]) == 2  # no sources given
    assert len(seen) == 3  # MI, ERP, SSVEP


# ---------------------------------------------------------------- the package's face

def test_every_public_name_is_there():
    for name in sjepa_nb.__all__: assert getattr(sjepa_nb, name).__doc__, name
    assert set(sjepa_nb.__all__) <= set(dir(sjepa_nb))
    with pytest.raises(AttributeError, match="no attribute 'SJEPB'"): sjepa_nb.SJEPB


def test_the_readme_lists_the_public_names():
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
    table = text.partition("The names that a user needs")[2].partition("##")[0]
    assert set(re.findall(r"`(\w+)`", table)) - {"sjepa_nb"} == set(sjepa_nb.__all__)


def test_exporting_keeps_the_face(tmp_path):
    "nbdev writes the version into `__init__.py`, and leaves the rest as it is."
    from nbdev.config import update_version
    face = Path(sjepa_nb.__file__)
    shutil.copy(face, tmp_path / "__init__.py")
    update_version(tmp_path)
    assert (tmp_path / "__init__.py").read_text() == face.read_text()


def test_a_command_in_a_process_of_its_own_says_what_is_wrong():
    p = Command("--dataset", "PhysionetIM")
    said, wrong = p.communicate()
    assert p.returncode == 2 and "close: PhysionetMI" in wrong
