"""What every test needs: braindecode that imports, MNE settings that are not the user's, real
recordings where there are any."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torchaudio_stub  # noqa: F401
from commands import COMMAND, Command

ROOT = Path(__file__).resolve().parent.parent
REAL = os.environ.get("MNE_DATA")


@pytest.fixture(autouse=True, scope="session")
def no_user_settings(tmp_path_factory):
    """MOABB writes into the user's MNE configuration where `MNE_DATA` is unset: give it a folder of
    its own."""
    patch, home = pytest.MonkeyPatch(), tmp_path_factory.mktemp("mne_home")
    patch.setenv("_MNE_FAKE_HOME_DIR", str(home))
    # the dataset's own host first: no waiting for a mirror
    patch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    if not REAL: patch.setenv("MNE_DATA", str(home))
    yield
    patch.undo()


@pytest.fixture
def real_data(monkeypatch):
    """The folder of real recordings, as MOABB downloads them; the test is skipped where there are
    none."""
    if not REAL: pytest.skip("no real recordings: set MNE_DATA to a folder of MOABB downloads")
    if not list(Path(REAL).glob("MNE-*-data")):
        pytest.skip(f"no MOABB downloads (MNE-…-data) in MNE_DATA={REAL}")
    monkeypatch.setenv("MNE_DATA", REAL)
    return Path(REAL)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    "The run that `COMMAND` makes, and its windows."
    out = tmp_path_factory.mktemp("runs") / "whole"
    p = Command(*COMMAND, "--out", out)
    said, wrong = p.communicate()
    assert p.returncode == 0, wrong
    return out


def python_in(root, code):
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    "A copy of the project whose modules nbdev has just made from the pages."
    root = tmp_path_factory.mktemp("site")
    for f in ("settings.ini", "pyproject.toml", "_quarto.yml"): shutil.copy(ROOT / f, root)
    hidden = shutil.ignore_patterns(".*")
    for d in ("nbs", "results"):
        if (ROOT / d).exists(): shutil.copytree(ROOT / d, root / d, ignore=hidden)
    (root / "sjepa_nb").mkdir()
    for f in ("__init__.py", "_site.py"):  # those that are not made: nbdev writes the version
        shutil.copy(ROOT / "sjepa_nb" / f, root / "sjepa_nb")
    python_in(root, "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()")
    return root


@pytest.fixture(scope="session")
def site(exported):
    "That copy, processed for the site as nbdev does it, without Quarto; and what nbdev said."
    code = """
from nbdev.quarto import proc_nbs, refresh_quarto_yml
refresh_quarto_yml()
proc_nbs(n_workers=0)
"""
    return exported, python_in(exported, code)
