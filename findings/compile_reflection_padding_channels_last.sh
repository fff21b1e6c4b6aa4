#!/usr/bin/env bash
# torch 2.11.0 on a CPU: compiling a reflection padding of a channels-last map can end in an error.
#
# Expected: torch.compile gives what the plain function gives, for any memory format of the input.
# What happens: where the padding mode is "reflect" or "replicate", torch predicts a contiguous
# result while its CPU operator keeps the channels last. A flatten after it is then captured as a
# view, which the real strides do not allow: "view size is not compatible with input tensor's size
# and stride". With zero padding, and with a contiguous input, it works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

print('torch', torch.__version__)
image = torch.rand(2, 3, 6, 6)
for mode in ('constant', 'reflect', 'replicate'):
    for layout in (torch.contiguous_format, torch.channels_last):

        def function(x, mode=mode):
            return F.pad(x, (1, 1, 1, 1), mode=mode).flatten(1)

        x = image.contiguous(memory_format=layout)
        torch.compiler.reset()
        try:
            # No code is generated with this backend, so that no C compiler plays a part.
            same = torch.compile(function, backend='aot_eager')(x).equal(function(x))
            seen = 'equal' if same else 'different'
        except RuntimeError as error:
            seen = str(error).split(' (')[0]
        print(f'{mode}, {layout}: {seen}')
        breaks = mode != 'constant' and layout == torch.channels_last
        assert seen.startswith('view size is not compatible' if breaks else 'equal'), seen
PYTHON
echo 'As described: reflection and replication of channels-last maps break when compiled.'
