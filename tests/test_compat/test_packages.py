# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmengine finds packages without setuptools' pkg_resources, which newer ones lack."""

import subprocess
import sys
from importlib import metadata

import pytest
from mmengine.utils import package_utils

from mmdmformer.compat import packages

PROGRAM = """
import sys
sys.modules['pkg_resources'] = None  # as setuptools from 82 has it
import mmdmformer
from mmengine.config import Config
try:
    Config.fromfile('c.py')
except ModuleNotFoundError as error:
    print(error)
mmdmformer.prepare()
print(Config.fromfile('c.py').model.type)
"""


@pytest.mark.parametrize('package', ['mmengine', 'mmsegmentation', 'mmseg'])
def test_answers_are_those_of_mmengine(package):
    assert packages.is_installed(package) == package_utils.is_installed(package)
    if package_utils.is_installed(package):
        assert packages.get_installed_path(package) == package_utils.get_installed_path(package)


def test_what_is_not_installed_has_no_folder():
    assert not packages.is_installed('no_such_package')
    with pytest.raises(ModuleNotFoundError, match='no_such_package is not installed'):
        packages.get_installed_path('no_such_package')


@pytest.mark.skipif('mmdet' not in {d.name for d in metadata.distributions()}, reason='official')
def test_configs_of_packages_are_found(tmp_path):
    (tmp_path / 'c.py').write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    error, found = done.stdout.splitlines()[-2:]
    assert 'pkg_resources' in error and found == 'RetinaNet'
