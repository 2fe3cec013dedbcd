"""What commands do to a folder: two of them in one, going on with what is there, and what they
refuse to take for their own."""
import errno
import json
import subprocess
import sys

import pytest

from commands import COMMAND
from sjepa_nb import command_line
from sjepa_nb.evaluation import Task, read_results
from sjepa_nb.files import lock_folder, locked

pytestmark = pytest.mark.filterwarnings("ignore")
TRIALS = ["--subjects", "11", "--paradigm", "MI", "--trials", "20", "48", "20", "--folds", "2"]
SCORES = [*TRIALS, "--heads", "pre-local", "--strategies", "probe", "--no-baselines", "--quiet"]
COMMANDS = dict(sjepa_pretrain=COMMAND, sjepa_demo=["--steps", "3", "--quiet"],
                sjepa_finetune=TRIALS, sjepa_evaluate=SCORES)


def call(capfd, command, *argv):
    "Exit code, what was said, what was said to be wrong."
    code = getattr(command_line, command)([str(a) for a in argv])
    return code, *capfd.readouterr()


def contents(folder):
    "Files, their bytes and times."
    files = [f for f in sorted(folder.rglob("*")) if f.name != ".run.lock" and f.is_file()]
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


# ---------------------------------------------------------------- two writers

@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_is_refused(command, tmp_path, capfd):
    "In the folder of a run that has no checkpoint yet; nothing of it changes."
    for name in ("command.json", "run.json"): (tmp_path / name).write_text('{"radius": 0.6}')
    before = contents(tmp_path)
    with locked(tmp_path):
        code, _, wrong = call(capfd, command, *COMMANDS[command], "--out", tmp_path)
    assert code == 2 and wrong.count("\n") == 1, wrong
    assert f"another process is at work in {tmp_path}" in wrong
    assert contents(tmp_path) == before


def test_the_lock_goes_with_its_process(tmp_path):
    program = f"""
import time
from sjepa_nb.files import lock_folder
lock = lock_folder({str(tmp_path)!r})
print("mine", flush=True)
time.sleep(60)"""
    p = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == "mine\n"
    with pytest.raises(ValueError, match="another process is at work"): lock_folder(tmp_path)
    p.kill()
    p.communicate()
    lock_folder(tmp_path).release()


@pytest.mark.skipif(sys.platform == "win32", reason="flock is that of Unix")
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    import fcntl
    def refuse(fd, how): raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no locks"): lock_folder(tmp_path).release()


def test_wrong_options_of_the_demonstration_leave_no_folder(tmp_path, capfd):
    code, _, wrong = call(capfd, "sjepa_demo", "--steps", 0, "--out", tmp_path / "demo")
    assert code == 2 and "steps must be a whole number" in wrong
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", ["sjepa_finetune", "sjepa_evaluate", "sjepa_demo"])
def test_seeds_that_are_too_large(command, tmp_path, capfd):
    code, _, wrong = call(capfd, command, "--seed", 2**32, "--out", tmp_path / "out")
    assert code == 2 and "--seed lies between" in wrong and not (tmp_path / "out").exists()


# ---------------------------------------------------------------- going on

def finetune(capfd, out, *more):
    "Two subjects, few epochs."
    words = [*TRIALS, "--subjects", 11, 12, "--epochs", 2, "--out", out, *more]
    return call(capfd, "sjepa_finetune", *words)


def test_one_subject_that_fails_does_not_end_the_others(tmp_path, capfd, monkeypatch):
    "It has a row with its error; called again, the command does what is missing, and that alone."
    load = Task.load

    def first_is_down(task, subject):
        if subject == 11: raise OSError("host is down")
        return load(task, subject)

    with monkeypatch.context() as m:
        m.setattr(Task, "load", first_is_down)
        code, said, wrong = finetune(capfd, tmp_path)
    assert (code, wrong) == (0, "") and "subject 11: failed: OSError: host is down" in said
    assert "1 of 2 subjects failed" in said
    table = read_results(tmp_path / "results.csv")
    assert list(table[table.subject == "11"].error) == ["OSError: host is down"]
    assert (table[table.subject == "12"].error == "").all()
    done, = tmp_path.glob("*.safetensors")
    written = done.stat().st_mtime_ns
    code, said, _ = finetune(capfd, tmp_path)
    assert code == 0 and "failed" not in said and said.count("accuracy") == 2
    assert done.stat().st_mtime_ns == written
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    table = read_results(tmp_path / "results.csv")
    assert (table.error == "").all() and len(table) == 4

    for more, says in ((["--strategy", "new"], "--strategy now say no-pre-training-new-pre-local"),
                       (["--folds", 3], "folds: 2 then, 3 now"),
                       (["--epochs", 3], "epochs: 2 then, 3 now")):
        before = contents(tmp_path)
        code, _, wrong = finetune(capfd, tmp_path, *more)
        assert code == 2 and says in wrong, wrong
        assert contents(tmp_path) == before


def test_all_subjects_that_fail_are_an_error(tmp_path, capfd, monkeypatch):
    def down(task, subject): raise OSError("host is down")
    monkeypatch.setattr(Task, "load", down)
    code, _, wrong = finetune(capfd, tmp_path)
    assert code == 2 and "the first error: OSError: host is down" in wrong


def test_a_table_without_its_sweep_is_not_gone_on_with(tmp_path, capfd):
    "What its rows were made by cannot be known."
    assert call(capfd, "sjepa_evaluate", *SCORES, "--out", tmp_path)[0] == 0
    (tmp_path / "sweep.json").unlink()
    for command, words in (("sjepa_evaluate", SCORES), ("sjepa_finetune", TRIALS)):
        before = contents(tmp_path)
        code, _, wrong = call(capfd, command, *words, "--out", tmp_path)
        assert code == 2 and str(tmp_path) in wrong
        assert contents(tmp_path) == before


# ---------------------------------------------------------------- names

@pytest.mark.parametrize("spec, says", [
    ("baselines=simulated", "a name of the table's own"),
    ("no-pre-training=simulated", "a name of the table's own"),
    ("=simulated", "cannot be called ''"), (" =simulated", "cannot be called ' '"),
    ("a/b=simulated", "cannot be called 'a/b'"), ("mine=", "names no weights")])
@pytest.mark.parametrize("command", ["sjepa_finetune", "sjepa_evaluate"])
def test_names_that_weights_cannot_have(command, spec, says, tmp_path, capfd):
    code, _, wrong = call(capfd, command, "--weights", spec, "--out", tmp_path / "out")
    assert code == 2 and says in wrong and wrong.count("\n") == 1
    assert not (tmp_path / "out").exists()
