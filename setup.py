"""What pyproject.toml cannot say: the notebooks, which stand beside the library, go into the package."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["curvekit", "curvekit.*"]), "curvekit.notebooks"],
    package_dir={"curvekit.notebooks": "notebooks"},
)
