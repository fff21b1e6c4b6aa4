# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmcv's compiled operators in torchvision and plain torch, one file per family.

Names, arguments and shapes are those that ``mmcv.ops`` calls them by. Where a backward pass is
not torchvision's own, autograd differentiates the forward pass.
"""

from . import attention, convolution, focal_loss, nms, reassembly, roi, rotated, sync_bn

OPERATORS = {
    name: getattr(family, name)
    for family in (attention, convolution, focal_loss, nms, reassembly, roi, rotated, sync_bn)
    for name in family.__all__
}
