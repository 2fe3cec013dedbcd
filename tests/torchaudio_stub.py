"""Importing this makes `import braindecode` work where torchaudio does not load: its builds for a
GPU do not, beside a torch for the CPU. S-JEPA needs none of it."""
import sys
import types


class _Stub(types.ModuleType):
    "A module in which every public name is some class."
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return type(name, (), {})


def stub_torchaudio():
    "Put empty modules in its place."
    whole = sys.modules["torchaudio"] = _Stub("torchaudio")
    for name in ("functional", "transforms"):
        part = sys.modules[f"torchaudio.{name}"] = _Stub(f"torchaudio.{name}")
        setattr(whole, name, part)


try: import torchaudio  # noqa: F401
except Exception:  # absent, or `OSError` from a library that does not load
    stub_torchaudio()
