# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What importing this package, and what preparing, changes in others' packages."""

import json
import subprocess
import sys

# Every attribute of every module and class of these packages, by identity. Lists and mappings
# (registries, lists of what is safe) may grow; what modules find out as they run is no function.
PROGRAM = """
import importlib, inspect, json, sys, types
import torch, mmengine.runner, mmengine.visualization, mmcv.cnn, mmcv.transforms
if 'bare' not in sys.argv:
    import mmdmformer
for name in ('mmdet', 'mmpretrain', 'mmseg'):
    try:
        for part in ('', '.registry') if 'bare' in sys.argv else ('', '.models', '.engine'):
            importlib.import_module(name + part)
    except ModuleNotFoundError as error:
        assert error.name == name, error

PACKAGES = 'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'
PLAIN = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, staticmethod,
         classmethod, property, bool, str, int, float)

def attributes():
    found = {}
    for module in [m for name, m in sys.modules.items() if name.split('.')[0] in PACKAGES]:
        for name, value in list(getattr(module, '__dict__', {}).items()):
            if isinstance(value, PLAIN):
                found[f'{module.__name__}.{name}'] = value
            if inspect.isclass(value) and value.__module__.split('.')[0] in PACKAGES:
                for key, part in vars(value).items():
                    if isinstance(part, PLAIN):
                        found[f'{value.__module__}.{value.__qualname__}.{key}'] = part
    return found

before = attributes()
importlib.import_module(sys.argv[1])
after = attributes()
changed = sorted(k for k, v in before.items() if k not in after or after[k] is not v)
print(json.dumps([len(before), changed]))
"""


def changed_by(module, *bare):
    """Names whose values are others than they were before an import."""
    command = [sys.executable, '-c', PROGRAM, module, *bare]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    count, changed = json.loads(done.stdout.splitlines()[-1])
    assert count > 10_000
    return changed


def test_importing_the_package_replaces_nothing():
    assert changed_by('mmdmformer', 'bare') == []


def test_preparing_replaces_what_it_says():
    changed = changed_by('mmdmformer.prepared')
    assert changed == ['mmengine.runner.checkpoint.CheckpointLoader.load_checkpoint']
