"""S-JEPA, self-supervised learning for EEG. Each name comes with its module when first used."""

__version__ = "0.1.0"

from importlib import import_module as _import_module

_NAMES = {
    "montage": "Montage lee2019_montage",
    "preprocessing": "Preprocessing",
    "sources": "find_dataset moabb_sources file_sources",
    "store": "WindowStore build_store split_by_subject split_in_time",
    "trials": "load_trials FileDataset EpochsFiles",
    "simulation": "simulated_datasets",
    "masking": "SphereMask FixedBudgetMask plot_masks",
    "model": "SJEPA SJEPAConfig",
    "pretraining": "Pretraining TrainingConfig plot_pretraining",
    "finetuning": "SJEPAClassifier SJEPAFeatures sjepa_probe",
    "evaluation": "Task simulated_tasks evaluate summarise compare",
    "weights": "from_pretrained save_pretrained",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [*_HOME]


def __getattr__(name):
    if name not in _HOME: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__(): return sorted({*globals(), *__all__})
