# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Serve ``mmcv.ops`` without a compiled mmcv.

``mmcv.ops`` takes its operators from the compiled module ``mmcv._ext``. Where that module is
missing or does not fit the installed torch, :func:`fill_gap` puts another module in its place:
``nms`` and ``roi_align`` come from torchvision, which ships them ready built, the sigmoid focal
loss is written in plain torch, and every other operator raises by its name when it is called.
Arguments are those of ``mmcv.ops``: features (B, C, H, W), regions (N, 5) as the image's number and
corners in its pixels, logits (N, C) and targets (N,); one outside ``0..C-1`` is background.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata

import torch
from torch import Tensor

from .environment import load_torchvision_operators

EXT_NAME = 'mmcv._ext'
_MMCV_PACKAGES = ('mmcv', 'mmcv-lite', 'onedl-mmcv')
_NOT_AVAILABLE = 'not available'  # as mmcv's builds without CUDA answer
_HALF_TYPES = (torch.float16, torch.bfloat16)


def fill_gap() -> None:
    """Make ``mmcv.ops`` importable where mmcv has no compiled operators, or none that load.

    The latter is a fault, of which one warning names the cure.
    """
    try:
        importlib.import_module(EXT_NAME)
    except ModuleNotFoundError as error:
        if error.name != EXT_NAME:
            raise
        _serve()
    except ImportError as error:
        _serve()
        _warn(' '.join(str(error).split()).rstrip('.'))


def replace_cpu_build() -> None:
    """Replace operators that were compiled without CUDA while torch sees a GPU, with a warning."""
    compiled = sys.modules[EXT_NAME]
    if (
        isinstance(compiled, _Bridge)
        or compiled.get_compiling_cuda_version() != _NOT_AVAILABLE
        or not torch.cuda.is_available()
    ):
        return
    bridge = _serve()
    # Modules of mmcv.ops that were imported before hold the compiled module itself.
    for name in dir(compiled):
        if not name.startswith('__'):
            setattr(compiled, name, getattr(bridge, name))
    _warn('built without CUDA')


def _serve() -> _Bridge:
    bridge = sys.modules[EXT_NAME] = sys.modules['mmcv']._ext = _Bridge()
    return bridge


def _warn(fault: str) -> None:
    warnings.warn(
        f"mmcv's compiled operators do not work with torch {torch.__version__} ({fault}) and "
        f"give way to torchvision's; {_cure()}.",
        stacklevel=3,
    )


def _cure() -> str:
    """How to get mmcv's own operators for the installed torch."""
    packages = {d.name: d.version for d in metadata.distributions() if d.name in _MMCV_PACKAGES}
    name, version = next(iter(packages.items()), ('mmcv', None))
    uninstall = 'pip uninstall -y mmcv-lite && ' if name == 'mmcv-lite' else ''
    package = name.removesuffix('-lite') + (f'=={version}' if version else '')
    # Neither an isolated build nor a wheel from pip's cache is made for this torch.
    return (
        f'build them for this torch with `{uninstall}pip install --force-reinstall --no-deps '
        f'--no-build-isolation --no-cache-dir {package}`'
    )


class _Bridge(types.ModuleType):
    """Stands in for the compiled module ``mmcv._ext``."""

    def __init__(self) -> None:
        super().__init__(EXT_NAME, 'Operators of mmcv served by torchvision and torch.')
        self.__spec__ = importlib.machinery.ModuleSpec(EXT_NAME, loader=None)
        for operator in (
            nms,
            roi_align_forward,
            roi_align_backward,
            sigmoid_focal_loss_forward,
            sigmoid_focal_loss_backward,
        ):
            setattr(self, operator.__name__, operator)
        # No compiler built it.
        self.get_compiler_version = self.get_compiling_cuda_version = lambda: _NOT_AVAILABLE

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(f'module {EXT_NAME!r} has no attribute {name!r}')
        return _refusal(name)


def _refusal(name: str) -> Callable:
    """A stand-in for operator ``name`` that raises when it is called."""

    def refuse(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv operator '{name}' is not available, as no working compiled mmcv is installed; "
            f'{_cure()}.'
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes (Tensor): (N, 4) corners x1, y1, x2, y2 in pixels.
        scores (Tensor): (N,).
        iou_threshold (float): A box is dropped when its IoU with a kept box is larger.
        offset (int): A side is ``x2 - x1 + offset`` pixels long; 0 or 1.

    Returns:
        Tensor: (K,) indices of the kept boxes, by descending score.
    """
    boxes = _at_least_float32(boxes)
    if offset:  # torchvision knows offset 0 only: move the far corner instead
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return _torchvision('nms')(boxes, scores.to(boxes.dtype), iou_threshold)


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **settings
) -> None:
    """RoIAlign with average pooling; fills ``output``. Maxima are not used."""
    _roi_align('roi_align', input, rois, output, (), **settings)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **settings,
) -> None:
    """Gradient of :func:`roi_align_forward` by its input; fills ``grad_input``."""
    _roi_align('_roi_align_backward', grad_output, rois, grad_input, grad_input.shape, **settings)


def _roi_align(
    operator: str,
    x: Tensor,
    rois: Tensor,
    result: Tensor,
    shape: Sequence[int],
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode != 1:  # the average
        raise NotImplementedError(
            "mmcv operator 'roi_align' with pool_mode='max' is not available, as no working "
            f"compiled mmcv is installed; use pool_mode='avg', or {_cure()}."
        )
    x = _at_least_float32(x)
    settings = (spatial_scale, aligned_height, aligned_width, *shape, sampling_ratio, aligned)
    result.copy_(_torchvision(operator)(x, rois.to(x.dtype), *settings))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss (Lin et al. 2017, equation 5) per logit; fills ``output``.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N,) class indices; one outside ``0..C-1`` is background.
        weight (Tensor): (C,) factor by the target's class, or empty.
        output (Tensor): (N, C), overwritten.
        gamma (float): Exponent that plays well-classified examples down.
        alpha (float): Weight of the positive class; the negative ones have ``1 - alpha``.
    """
    logits = _at_least_float32(input)
    sign, scale = _focal_parts(logits, target, weight, alpha)
    # p is the probability of what is true of each logit: sigmoid(x) or 1 - sigmoid(x).
    log_p = torch.nn.functional.logsigmoid(sign * logits)
    output.copy_(-scale * torch.sigmoid(-sign * logits) ** gamma * log_p)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward` by its logits; fills ``grad_input``.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N,) class indices; one outside ``0..C-1`` is background.
        weight (Tensor): (C,) factor by the target's class, or empty.
        grad_input (Tensor): (N, C), overwritten.
        gamma (float): As in the forward pass.
        alpha (float): As in the forward pass.
    """
    logits = _at_least_float32(input)
    sign, scale = _focal_parts(logits, target, weight, alpha)
    log_p = torch.nn.functional.logsigmoid(sign * logits)
    p, q = torch.sigmoid(sign * logits), torch.sigmoid(-sign * logits)
    grad_input.copy_(sign * scale * q**gamma * (gamma * p * log_p - q))


def _focal_parts(
    logits: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Per logit: +1 where it is the target's, else -1; and its constant factor in the loss."""
    classes = torch.arange(logits.size(1), device=logits.device)
    positive = target[:, None] == classes
    one = logits.new_ones(())
    sign = torch.where(positive, one, -one)
    scale = torch.where(positive, one * alpha, one * (1 - alpha))
    if weight.numel():
        scale = scale * weight[target][:, None]
    return sign, scale


def _torchvision(name: str) -> Callable:
    """Operator ``name`` of torchvision."""
    if not load_torchvision_operators():
        raise ImportError(
            "mmcv operators 'nms' and 'roi_align' are served by torchvision, which is not "
            'installed; install the one that fits with '
            f'`pip install torch=={torch.__version__.split("+")[0]} torchvision`.'
        )
    return getattr(torch.ops.torchvision, name)


def _at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened: torchvision's kernels do not take it on every device."""
    return x.float() if x.dtype in _HALF_TYPES else x
