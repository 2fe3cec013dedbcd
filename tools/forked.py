"""Processes that are copies of one which has imported the libraries.

A new Python takes ten seconds for that, each time.
"""
import atexit
import multiprocessing
import os
import tempfile
from pathlib import Path

LIBRARIES = [  # not sjepa_nb: its pages import it themselves
    "torch", "torch._dynamo", "mne", "moabb.paradigms", "moabb.evaluations",
    "pyriemann.classification", "sklearn.pipeline", "matplotlib.pyplot", "zarr", "numba", "pandas",
    "safetensors.torch", "execnb.shell", "nbdev.clean", "fastcore.test"]
FIRST = {  # what must be set when Python begins
    "PYTHONHASHSEED": "0", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait leave the processor to others
    "HF_HUB_OFFLINE": "1",
    "MOABB_DOWNLOAD_PROVIDER": "upstream"}
METHODS = multiprocessing.get_all_start_methods()
context = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
context.set_forkserver_preload(LIBRARIES)


class Copy:
    """`function(*args)` in a process of its own, with the methods of `subprocess.Popen`.

    All must be importable or picklable.
    """
    def __init__(self, function, *args, env=None):
        self.told = tempfile.TemporaryDirectory()
        self.files = [Path(self.told.name) / name for name in ("out", "err")]
        for file in self.files: file.touch()
        before = dict(os.environ)
        os.environ.update(FIRST)
        try:
            args = function, args, before | FIRST | (env or {}), self.files
            self.process = context.Process(target=_work, args=args)
            self.process.start()
        finally: _set_environment(before)

    @property
    def returncode(self): return self.process.exitcode

    def poll(self): return self.process.exitcode

    def send_signal(self, number): os.kill(self.process.pid, number)

    def kill(self): self.process.kill()

    def communicate(self):
        "Wait for the end; what was printed, and what went to stderr."
        self.process.join()
        return tuple(f.read_text(encoding="utf-8", errors="replace") for f in self.files)


def _set_environment(env):
    os.environ.clear()
    os.environ.update(env)


def _work(function, args, env, files):
    "In the copy: what it says goes to files, then the function."
    for number, file in enumerate(files, 1): os.dup2(os.open(file, os.O_WRONLY), number)
    _set_environment(env)
    try: function(*args)
    finally: atexit._run_exitfuncs()  # multiprocessing leaves out what removes temporary folders
