#!/usr/bin/env bash
# torch 2.11.0 on a CPU: training a compiled layer norm over the channels of maps can end in an error.
#
# Expected: torch.compile gives the gradients of the plain function, whatever follows the norm.
# What happens: where what follows hands back a gradient that is not contiguous for the layer norm (a
# contiguous, a flatten, a head that works with the channels first), torch predicts strides like the
# gradient's, while its operator native_layer_norm_backward always gives contiguous ones. A view before
# the norm is then undone by a view that the real strides do not allow: "view size is not compatible
# with input tensor's size and stride". Where the norm's output is used as it is, it works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

print('torch', torch.__version__)
uses = {
    'as it is': lambda y: y,
    'made contiguous': lambda y: y.contiguous(),
    'flattened': lambda y: y.flatten(1),
}
x = torch.rand(8, 6, 3, 5, requires_grad=True)
for name, use in uses.items():

    def function(x, use=use):
        maps = x.view(2, 24, 3, 5) * 2
        return use(F.layer_norm(maps.permute(0, 2, 3, 1), (24,)).permute(0, 3, 1, 2))

    torch.compiler.reset()
    try:
        # No code is generated with this backend, so that no C compiler plays a part.
        out = torch.compile(function, backend='aot_eager')(x)
        weights = torch.rand_like(out)
        (grad,) = torch.autograd.grad((out * weights).sum(), x)
        (plain,) = torch.autograd.grad((function(x) * weights).sum(), x)
        seen = 'equal' if grad.equal(plain) else 'different'
    except RuntimeError as error:
        seen = str(error).split(' (')[0]
    print(f'{name}: {seen}')
    expected = 'equal' if name == 'as it is' else 'view size is not compatible'
    assert seen.startswith(expected), seen
PYTHON
echo 'As described: the gradient of a compiled layer norm fails where it is not contiguous.'
