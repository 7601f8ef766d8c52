"""Tests of the public face of `ivf_core`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ivf_core


def test_public_names_are_those_of_their_modules() -> None:
    for name in ivf_core.__all__:
        value = getattr(ivf_core, name)
        assert value is getattr(sys.modules[value.__module__], name)
        assert name in dir(ivf_core)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'ivf_core' has no attribute 'no_such_name'"):
        _ = ivf_core.no_such_name
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from ivf_core import no_such_name")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import ivf_core, sys; print({'torch', 'cv2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
