#!/usr/bin/env bash
# ncnn 1.0.20261020: ncnn.Mat(array) uses an array's memory, but does not keep the array alive.
#
# Expected: what shares the memory of an array holds a reference to it, as memoryview and torch.from_numpy do.
# What happens: ncnn.Mat holds none. Memory of an array that nothing else holds, such as that of
# ncnn.Mat(np.ascontiguousarray(picture.transpose(2, 0, 1))).clone(), is freed before clone() reads it,
# so that a network computes with other values than the picture's, without an error. Give the array
# a name that lives until the network has run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ncnn==1.0.20261020 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import ncnn
import numpy as np


def references(share):
    """How many references to an array there are more once it is shared."""
    array = np.zeros((3, 8, 8), np.float32)
    before = sys.getrefcount(array)
    shared = share(array)
    more = sys.getrefcount(array) - before
    array[1, 2, 3] = 7.0
    seen = float(np.asarray(shared)[1, 2, 3])
    return more, seen


for name, share in (('memoryview', memoryview), ('ncnn.Mat', ncnn.Mat)):
    more, seen = references(share)
    print(f'{name}: shows a 7 that was written into the array as {seen:g}, holds {more} references to it')
    assert seen == 7
    assert more == (0 if share is ncnn.Mat else 1)
PYTHON
echo 'As described: the memory is shared, and nothing keeps it.'
