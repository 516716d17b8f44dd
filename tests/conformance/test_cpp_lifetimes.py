# SPDX-License-Identifier: Apache-2.0
"""What only the C++ client has: objects whose destructors end calls. Its own program checks them."""

from __future__ import annotations

import subprocess

import pytest
from conformance.probes import LANGUAGES, ROOT, build_probe
from conformance.stage import DaemonStage

CHECK_TIMEOUT_S = 120


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_lifetimes() -> None:
    [language] = [each for each in LANGUAGES if each.name == "C++"]
    build_probe(language)
    stage = DaemonStage()
    try:
        command = [ROOT / "build/probes/cpp/lifetimes", stage.variables["target"]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
    finally:
        stage.close()
    assert (done.returncode, done.stderr) == (0, "")
