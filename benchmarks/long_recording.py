"""How much memory does a long recording take on its way into a store?

    python benchmarks/long_recording.py --hours 1 6 24 --version "in parts"

An EDF file of 19 channels at 256 Hz (noise, written in pieces) becomes windows of 16 s, in a
process of its own for each length. Rows are added to results/long_recording.csv (--out).
"""
import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).resolve().parent.parent / "results" / "long_recording.csv"
CHANNELS = "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2".split()


def header(rate, records):
    "The header of an EDF file in tenths of a microvolt, with records of a second."
    n = len(CHANNELS)
    fields = [("0", 8), ("X", 80), ("X", 80), ("01.01.20", 8), ("00.00.00", 8), (256 * (n + 1), 8),
              ("", 44), (records, 8), (1, 8), (n, 4)]
    fields += [(name, 16) for name in CHANNELS]
    for value, width in (("", 80), ("uV", 8), (-3276.8, 8), (3276.7, 8), (-32768, 8), (32767, 8),
                         ("", 80), (rate, 8), ("", 32)):
        fields += [(value, width)] * n
    return b"".join(str(value).ljust(width).encode() for value, width in fields)


def write_edf(path, hours, rate):
    "Noise that all channels share in part, ten minutes at most in memory at once."
    rng, records = np.random.default_rng(0), int(hours * 3600)
    with open(path, "wb") as f:
        f.write(header(rate, records))
        for begin in range(0, records, 600):
            n = min(600, records - begin)
            x = rng.standard_normal((n, len(CHANNELS), rate), dtype=np.float32)
            x = 150 * x + 100 * rng.standard_normal((n, 1, rate), dtype=np.float32)
            f.write(np.round(x).astype("<i2").tobytes())


def child(path, store):
    "Read the file into a store; print seconds, windows and peak memory."
    import resource
    from sjepa_nb.sources import file_sources
    from sjepa_nb.store import build_store
    start = time.perf_counter()
    built = build_store(store, file_sources([path]), 16., progress=False)
    unit = 1e9 if sys.platform == "darwin" else 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps(dict(windows=len(built), seconds=time.perf_counter() - start, memory_gb=peak)))


def measure(hours, rate):
    "One length, in a process of its own."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s1.edf"
        write_edf(path, hours, rate)
        command = [sys.executable, __file__, "--child", str(path), f"{folder}/store"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--hours", type=float, nargs="+", default=[1, 6, 24])
    p.add_argument("--rate", type=int, default=256, help="Hz")
    p.add_argument("--version", default="", help="what to call it in the table")
    p.add_argument("--out", type=Path, default=RESULTS)
    p.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: return child(*a.child)
    table = pd.read_csv(a.out).to_dict("records") if a.out.exists() else []
    for hours in a.hours:
        setting = dict(version=a.version, hours=hours, channels=len(CHANNELS), rate=a.rate)
        table.append(setting | measure(hours, a.rate) | dict(machine=platform.machine()))
        print(table[-1], flush=True)
        pd.DataFrame(table).round(2).to_csv(a.out, index=False)


if __name__ == "__main__": main()
