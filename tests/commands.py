"""The commands in processes of their own."""
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from forked import Copy  # noqa: E402

COMMAND = ["--dataset", "simulated", "--subjects", "1", "2", "--valid-subjects", "2",
           "--length", "1", "--interval", "25", "--batch-size", "4", "--epochs", "2",
           "--precision", "float32", "--quiet",
           "--checkpoint-minutes", "0.001"]  # of `sjepa_pretrain`: 14 steps


class Command(Copy):
    "`sjepa_pretrain`, or another command."
    def __init__(self, *args, command="sjepa_pretrain", threads=2, before=None):
        super().__init__(run, command, [str(a) for a in args], threads, before)


def run(command, args, threads, before):
    import torch
    from sjepa_nb import command_line
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    if before: before()
    sys.exit(getattr(command_line, command)(args))


def no_large_files():
    "As if the disk were full."
    import resource
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
