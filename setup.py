"""Only what pyproject.toml cannot say: the kernels, built where there is a compiler.

They need no headers of Python or PyTorch; where they cannot be built, the program goes without.
"""

import platform

from setuptools import Extension, setup

_X86 = platform.machine().lower() in ("x86_64", "amd64")
_POSIX = platform.system() != "Windows"

setup(
    ext_modules=[
        Extension(
            "cyclegan_cli.engine.fast._kernels",
            ["cyclegan_cli/engine/fast/kernels.cpp"],
            language="c++",
            extra_compile_args=[
                *("-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math"),
                *(("-mavx2", "-mfma") if _X86 else ()),
            ],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,
        )
    ]
    if _POSIX
    else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
