"""Files that are damaged or not ours: one line with the file's name, at once."""
import json
import time

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sjepa_nb import command_line
from sjepa_nb.evaluation import BLANK, _PROTOCOL
from sjepa_nb.finetuning import SJEPAClassifier
from sjepa_nb.model import SJEPA, SJEPAConfig
from sjepa_nb.montage import lee2019_montage
from sjepa_nb.pretraining import EPOCH_COLUMNS, CsvLog, load_checkpoint, plot_pretraining
from sjepa_nb.sources import file_sources
from sjepa_nb.store import WindowStore
from test_data import write_edf
from sjepa_nb.weights import from_pretrained, save_pretrained

SMALL = SJEPAConfig(depth=1, predictor_depth=1, hidden=32, average_layers=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.safetensors"
    SJEPA(lee2019_montage(), SMALL).save(path)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("files") / "classifier.safetensors"
    x = 10 * np.random.default_rng(0).standard_normal((8, 62, 152))
    settings = dict(head="contextual", channels=lee2019_montage(), epochs=1)
    SJEPAClassifier(str(model), **settings).fit(x, [0, 1] * 4).save(path)
    return path


def changed(path, to, header=None, tensors=None):
    "A copy with another header, or other tensors."
    with safe_open(path, "pt") as f: about = f.metadata()
    save_file(load_file(path) | (tensors or {}), to, metadata=about | (header or {}))
    return to


def refused(read, path, *words):
    "One line that names the file, and is there before a model of such a size could be."
    start = time.monotonic()
    with pytest.raises(ValueError) as e: read(path)
    said = str(e.value)
    assert time.monotonic() - start < 5 and "\n" not in said and len(said) < 600
    for word in (str(path), *words): assert word in said, said


@pytest.mark.parametrize("config, says", [
    (dict(depth=100_000), "depth 100000, not 1"),
    (dict(predictor_depth=100_000), "predictor_depth 100000, not 1"),
    (dict(hidden=10**9), "hidden"), (dict(width=10**9), "width"), (dict(depth="1"), "depth"),
    (dict(depth=None), "depth"), (dict(heads=7), "not those"), (dict(size=1), "another version")])
def test_a_header_of_another_model(model, config, says, tmp_path):
    from dataclasses import asdict
    header = dict(config=json.dumps(asdict(SMALL) | config))
    refused(SJEPA.load, changed(model, tmp_path / "x.safetensors", header), says)


@pytest.mark.parametrize("header", [
    dict(config="{"), dict(config="[]"), dict(config="1"), dict(channels="[]"), dict(positions="0"),
    dict(config="[" * 100_000), dict(channels='["Cz"]')])
def test_a_damaged_header(model, header, tmp_path):
    refused(SJEPA.load, changed(model, tmp_path / "x.safetensors", header))


def test_numbers_that_are_not_finite(model, classifier, tmp_path):
    for read, path in ((SJEPA.load, model), (SJEPAClassifier.load, classifier)):
        name, tensor = next(iter(load_file(path).items()))
        spoiled = {name: torch.full_like(tensor, torch.nan)}
        refused(read, changed(path, tmp_path / path.name, tensors=spoiled), "not finite", name)


@pytest.mark.parametrize("part, change, says", [
    ("fitted", lambda d: d["sizes"].update(depth=100_000), "depth"),
    ("fitted", lambda d: d["sizes"].update(hidden=10**9), "hidden"),
    ("fitted", lambda d: d.update(n_samples=10**15), "linear.weight"),
    ("fitted", lambda d: d.update(n_channels=10**15), "spatial.weight"),
    ("fitted", lambda d: d.pop("sizes"), "damaged header"),
    ("settings", lambda d: d.update(virtual_channels=10**12), "spatial.weight"),
    ("start", lambda d: d["config"].update(depth=100_000), "start: depth")])
def test_a_classifier_of_another_network(classifier, part, change, says, tmp_path):
    with safe_open(classifier, "pt") as f: told = json.loads(f.metadata()[part])
    change(told)
    header = {part: json.dumps(told)}
    refused(SJEPAClassifier.load, changed(classifier, tmp_path / "x.safetensors", header), says)


def test_what_was_not_changed_is_read(model, classifier, tmp_path):
    SJEPA.load(changed(model, tmp_path / "x.safetensors"))
    SJEPAClassifier.load(changed(classifier, tmp_path / "y.safetensors"))


@pytest.mark.parametrize("config", [
    dict(depth=100_000), dict(predictor_depth=100_000), dict(hidden=10**9), dict(depths=1),
    dict(depth="4")])
def test_a_configuration_of_another_model(model, config, tmp_path):
    save_pretrained(SJEPA.load(model), tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    told["sjepa_nb"] |= config
    (tmp_path / "config.json").write_text(json.dumps(told))
    start = time.monotonic()
    with pytest.raises(ValueError, match="config.json"): from_pretrained(tmp_path)
    assert time.monotonic() - start < 5


# ---------------------------------------------------------------- commands in such folders

def call(command, *argv):
    "Exit code of a command."
    return getattr(command_line, command)([str(a) for a in argv])


TABLE = ",".join(BLANK) + "\n" + ",".join(["a"] * len(BLANK)) + "\n"
SWEEP = json.dumps(dict.fromkeys(_PROTOCOL) | dict(tasks=[], version="0"))
EPOCHS = ",".join(EPOCH_COLUMNS) + "\n"
EVALUATE = ["--subjects", "11", "--paradigm", "MI", "--trials", "20", "48", "20", "--no-baselines"]


@pytest.mark.parametrize("command, name, text, says", [
    ("sjepa_plot", "epochs.csv", EPOCHS, "no epoch is over yet"),
    ("sjepa_plot", "epochs.csv", "", "is no table of epochs"),
    ("sjepa_plot", "epochs.csv", "a,b\n1,2\n", "is no table of epochs"),
    ("sjepa_plot", "epochs.csv", EPOCHS + ",".join("a" * EPOCHS.count(",")) + ",a\n", "are numbers"),
    ("sjepa_plot", "results.csv", "", "is no table of results"),
    ("sjepa_plot", "results.csv", "a,b\n1,2\n", "another version"),
    ("sjepa_plot", "results.csv", TABLE, "are numbers"),
    ("sjepa_pretrain --resume", "command.json", "{", "command.json is damaged"),
    ("sjepa_pretrain --resume", "command.json", "[]", "command.json is damaged: no dict"),
    ("sjepa_pretrain --resume", "command.json", '{"length": null}', "command.json is damaged"),
    ("sjepa_pretrain --resume", "command.json", "[" * 99_999, "command.json is damaged"),
    ("sjepa_evaluate", "sweep.json", "[]", "sweep.json is damaged: no dict"),
    ("sjepa_evaluate", "sweep.json", "{}", "sweep.json is no sweep's"),
    ("sjepa_evaluate", "sweep.json", SWEEP, "holds another sweep"),
    ("sjepa_finetune", "results.csv", TABLE, "are numbers"),
])
def test_a_damaged_file_is_named(command, name, text, says, tmp_path, capfd):
    (tmp_path / name).write_text(text)
    command, *words = command.split()
    where = [tmp_path, "--out", tmp_path] if command == "sjepa_plot" else ["--out", tmp_path]
    trials = EVALUATE if command in ("sjepa_evaluate", "sjepa_finetune") else []
    if command == "sjepa_finetune": trials = EVALUATE[:-1]
    assert call(command, *trials, *words, *where) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and says in said and str(tmp_path) in said, said
    assert (tmp_path / name).read_text() == text


def test_a_run_that_does_not_say_what_it_is(model, tmp_path, capfd):
    (tmp_path / "model.safetensors").write_bytes(model.read_bytes())
    (tmp_path / "run.json").write_text("{}")
    assert call("sjepa_evaluate", "--weights", tmp_path, "--out", tmp_path / "out") == 2
    said = capfd.readouterr().err
    assert "run.json does not say what was trained" in said and not (tmp_path / "out").exists()


def test_a_foreign_checkpoint(tmp_path):
    for name, value in {"checkpoint.pt": [1, 2], "checkpoint.new.pt": torch.zeros(3)}.items():
        torch.save(value, tmp_path / name)
    with pytest.raises(ValueError, match="no checkpoint in .* can be read"):
        load_checkpoint(tmp_path)
    for file in tmp_path.iterdir(): file.write_text("a text, of which torch.load says a page")
    with pytest.raises(ValueError, match=r"can be read \(checkpoint.pt: [^\n]*\); start again") as e:
        load_checkpoint(tmp_path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", ["[1, 2]", "7", '{"attributes": 7}', '{"attributes": [1]}'])
def test_a_store_that_is_other_json(text, tmp_path):
    (tmp_path / "zarr.json").write_text(text)
    refused(WindowStore, tmp_path, "is not a window store")


def test_records_of_no_length(tmp_path):
    "MNE takes them for a second, and says so where no command shows it."
    path = write_edf(tmp_path / "S001.edf")
    data = path.read_bytes()
    path.write_bytes(data[:244] + b"0       " + data[252:])
    with pytest.raises(ValueError, match=r"S001.edf: .*records last 0 s"): file_sources([path])


@pytest.mark.parametrize("text, says", [
    ("", "no table of steps"), ("a,b\n1,2\n", "no table of steps"),
    ("step,loss\n1,y\n", "not all of loss are numbers")])
def test_steps_that_are_none(text, says, tmp_path):
    row = dict.fromkeys(EPOCH_COLUMNS, "1.0")
    (tmp_path / "epochs.csv").write_text(EPOCHS + ",".join(row.values()) + "\n")
    (tmp_path / "steps.csv").write_text(text)
    refused(plot_pretraining, tmp_path, "steps.csv", says)


def test_a_damaged_log(tmp_path):
    (tmp_path / "steps.csv").write_text("step,loss\n0,1\nx,2\n")
    with pytest.raises(ValueError, match="steps.csv is damaged"):
        CsvLog(tmp_path / "steps.csv", ("step", "loss")).cut(1)


def test_a_hub_out_of_reach_is_one_line(monkeypatch, tmp_path, capfd):
    import huggingface_hub
    def no_network(*args, **settings): raise ConnectionError("no route\nmore\nlines")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    assert call("sjepa_finetune", "--weights", "some/where", "--out", tmp_path / "out") == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "some/where is no file or folder here" in said, said
    assert "no route" in said and not (tmp_path / "out").exists()


def test_a_dollar_in_a_name(tmp_path, capfd):
    "Two of them would be a formula; this one is none that can be drawn."
    folder = tmp_path / "a$\\b{$"
    folder.mkdir()
    row = dict.fromkeys(EPOCH_COLUMNS, "1.0")
    (folder / "epochs.csv").write_text(EPOCHS + ",".join(row.values()) + "\n")
    (folder / "steps.csv").write_text("step,loss\n0,1\n")
    assert call("sjepa_plot", folder, "--out", tmp_path) == 0, capfd.readouterr().err
