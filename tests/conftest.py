"""What all tests share: one thread, hypothesis profiles, and the fixtures."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

torch.set_num_threads(1)

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def shared():
    """Data lent for tests, beside the checkout; tests that need it are skipped where it is not."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no shared/ beside the checkout")
    return folder


@pytest.fixture
def fill(shared):
    """The formula behind the golden files, with their checkers."""
    spec = importlib.util.spec_from_file_location("golden_fill", shared / "golden" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def golden(shared, fill):
    """Reads a golden file: its content, its checker, the official state dict made by formula, and images with mask."""

    def open_it(name):
        content = json.loads((shared / "golden" / f"{name}.json").read_text())
        state = fill.state_dict(str(shared / "golden" / content["manifest"]), content["seed"], torch.float32)
        pixels, padding = fill.make_batch(content["seed"], content["images"])
        return content, fill, state, (torch.from_numpy(pixels).double(), torch.from_numpy(padding))

    return open_it


def draws(data):
    """A law's ``draw`` from hypothesis, so that failures shrink."""
    return lambda low, high: data.draw(st.integers(low, high))
