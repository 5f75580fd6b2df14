"""Installs the package `apps` of a checkout as `tfgrad_apps`, which pyproject.toml cannot say."""

import setuptools

commands = setuptools.find_packages(include=["apps", "apps.*"])
setuptools.setup(
    packages=[
        *setuptools.find_packages(include=["tfgrad", "tfgrad.*"]),
        *(f"tfgrad_{name}" for name in commands),
    ],
    package_dir={f"tfgrad_{name}": name.replace(".", "/") for name in commands},
)
