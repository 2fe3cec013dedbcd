"""The tests' own surroundings: what tests/conftest.py promises."""
import os
import sys
from pathlib import Path

import mne
import pytest

import conftest
import torchaudio_stub


def test_the_users_mne_settings_are_out_of_reach(tmp_path_factory):
    assert tmp_path_factory.getbasetemp() in Path(mne.get_config_path()).parents
    assert os.environ["MNE_DATA"] == (conftest.REAL or mne.get_config("MNE_DATA"))


def test_braindecode_imports_beside_any_torch():
    from braindecode.models import SignalJEPA
    assert SignalJEPA.__name__ == "SignalJEPA"


def test_the_torchaudio_stub_gives_names_and_no_dunders(monkeypatch):
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
        monkeypatch.setitem(sys.modules, name, None)
    torchaudio_stub.stub_torchaudio()
    from torchaudio.functional import fftconvolve, lfilter
    assert fftconvolve is not lfilter
    with pytest.raises(AttributeError): sys.modules["torchaudio"].__wrapped__
