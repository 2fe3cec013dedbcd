"""What every test needs: braindecode that imports, MNE settings that are not the user's, real recordings where there are any."""
import os
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class _Stub(types.ModuleType):
    "A module in which every public name is some class."
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return type(name, (), {})


def stub_torchaudio():
    "braindecode imports torchaudio, whose builds for a GPU do not load beside a torch for the CPU. S-JEPA needs none of it."
    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"): sys.modules[name] = _Stub(name)
    for name in ("functional", "transforms"): setattr(sys.modules["torchaudio"], name, sys.modules[f"torchaudio.{name}"])


try: import torchaudio  # noqa: F401
except Exception:  # absent, or `OSError` from a library that does not load
    stub_torchaudio()

REAL = os.environ.get("MNE_DATA")


@pytest.fixture(autouse=True, scope="session")
def no_user_settings(tmp_path_factory):
    "MOABB writes into the user's MNE configuration where `MNE_DATA` is unset: give it a folder of its own."
    patch, home = pytest.MonkeyPatch(), tmp_path_factory.mktemp("mne_home")
    patch.setenv("_MNE_FAKE_HOME_DIR", str(home))
    patch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")  # the dataset's own host first: no waiting for a mirror
    if not REAL: patch.setenv("MNE_DATA", str(home))
    yield
    patch.undo()


@pytest.fixture
def real_data(monkeypatch):
    "The folder of real recordings, as MOABB downloads them; the test is skipped where there are none."
    if not REAL: pytest.skip("no real recordings: set MNE_DATA to a folder of MOABB downloads")
    if not list(Path(REAL).glob("MNE-*-data")): pytest.skip(f"no MOABB downloads (MNE-…-data) in MNE_DATA={REAL}")
    monkeypatch.setenv("MNE_DATA", REAL)
    return Path(REAL)
