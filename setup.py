# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Packs mmdmformer; ``make setup`` or ``pip install .`` runs it."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = 'configs', 'tools', 'model-index.yml'


def read(path):
    """The text of a file, or nothing where it is missing."""
    path = ROOT / path
    return path.read_text(encoding='utf-8') if path.exists() else ''


def requirements(path):
    """The requirements of a file, without its comments and options."""
    lines = (line.split('#')[0].strip() for line in read(path).splitlines())
    return [line for line in lines if line and not line.startswith('-')]


class BuildPy(build_py):
    """Adds configs/ and tools/ to the package as ``.mim``, where OpenMMLab's ``mim`` finds them."""

    def run(self):
        editable = getattr(self, 'editable_mode', False)
        package = ROOT / 'mmdmformer' if editable else Path(self.build_lib) / 'mmdmformer'
        if not editable:
            shutil.rmtree(package, ignore_errors=True)  # an earlier build may hold deleted modules
        super().run()
        mim = package / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM:
            source, target = ROOT / name, mim / name
            if not source.exists():
                continue
            if editable:
                target.symlink_to(os.path.relpath(source, mim))
            elif source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy2(source, target)


setup(
    name='mmdmformer',
    version=re.search(r"__version__ = '(.+)'", read('mmdmformer/version.py')).group(1),
    description='DMFormer for image classification, object detection and semantic segmentation',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    author='mmdmformer contributors',
    license='Apache-2.0',
    classifiers=[
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmdmformer', 'mmdmformer.*']),
    include_package_data=True,
    python_requires='>=3.10',
    # Nothing is required outright: mmcv, mmcv-lite and onedl-mmcv are one import under three
    # names, and torch comes in as many builds, so that a requirement could install a second copy
    # over the user's own. The environment is checked on import instead.
    install_requires=[],
    extras_require={
        'openmmlab': requirements('requirements.txt'),
        'onedl': requirements('requirements/onedl.txt'),
        'tests': requirements('requirements/tests.txt'),
        'optional': requirements('requirements/optional.txt'),
        'clients': requirements('requirements/clients.txt'),
        'runtimes': requirements('requirements/runtimes.txt'),
        'executorch': requirements('requirements/executorch.txt'),
    },
    cmdclass={'build_py': BuildPy},
    zip_safe=False,
)
