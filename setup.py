# SPDX-License-Identifier: Apache-2.0
"""The extension module and nothing else; every other fact about the distribution is in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ENGINE = Path("engine/virtblock/engine")
CORE_SOURCES = sorted(str(path) for path in (ENGINE / "core").glob("*.c"))

# -march stays at the distribution's baseline: the C code chooses wider instructions at run time.
CORE = Extension(
    "virtblock.engine._core",
    sources=[str(ENGINE / "_core.pyx"), *CORE_SOURCES],
    depends=sorted(str(path) for path in (ENGINE / "core").glob("*.h")),
    include_dirs=[str(ENGINE / "core")],
    libraries=["deflate", "z", "zstd", "pthread"],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=gnu11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"],
)

setup(
    ext_modules=cythonize(
        [CORE],
        build_dir="build/cython",
        include_path=["engine"],
        compiler_directives={
            "language_level": 3,
            "binding": True,
            "embedsignature": True,
            "show_performance_hints": False,
        },
    ),
)
