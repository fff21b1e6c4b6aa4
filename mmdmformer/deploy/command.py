# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The export command: arguments, the network, and the comparison afterwards."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from ..engine import runtime
from ..engine.overrides import CfgOptions
from . import int8, verify
from .formats import FORMATS, check_free, format_of
from .metadata import describe, notes
from .networks import build_network


def parser(description: str) -> argparse.ArgumentParser:
    """Make the parser of the export tool.

    Args:
        description (str): What the tool does.

    Returns:
        argparse.ArgumentParser: The parser.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of the model')
    parser.add_argument('checkpoint', help='its checkpoint, .pth or .safetensors')
    parser.add_argument('out', help=f'file to write: {", ".join(FORMATS)}')
    parser.add_argument(
        '--backbone', action='store_true', help="the backbone alone: its four stages' maps"
    )
    parser.add_argument(
        '--raw', action='store_true', help="the maps of a RetinaNet's head instead of boxes"
    )
    parser.add_argument(
        '--int8',
        action='store_true',
        help='with convolutions and linear layers in int8 (ONNX Runtime, OpenVINO); --sizes and '
        '--batches then say what is timed alone',
    )
    parser.add_argument(
        '--calibration',
        type=runtime.positive,
        default=64,
        metavar='N',
        help='pictures of the training set to find the ranges of int8 with, and of the test set '
        'to compare on (default: 64)',
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=_size,
        default=[(224, 224), (256, 320)],
        metavar='HxW',
        help='sides in pixels to compare at (default: 224x224 256x320)',
    )
    parser.add_argument(
        '--batches',
        nargs='+',
        type=runtime.positive,
        default=[1, 2],
        help='images to compare at (default: 1 2)',
    )
    parser.add_argument(
        '--images',
        nargs='+',
        default=[],
        metavar='FILE',
        help='pictures to compare on (default: four that the config tests on, or two of '
        'scikit-learn where they are not present)',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        help='largest difference, relative to the largest value where that is above 1 '
        '(default: 1e-4); with --int8 the largest share of decisions (classes of images or '
        'pixels, boxes by their scores) that may be others (default: 0.05)',
    )
    parser.add_argument(
        '--repetitions', type=runtime.positive, default=5, help='of the timing (default: 5)'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={})
    return parser


def run(args: argparse.Namespace) -> None:
    """Export, compare with the toolbox's own predictions, and time beside PyTorch.

    Args:
        args (argparse.Namespace): Arguments of :func:`parser`.

    Raises:
        runtime.UsageError: If the model cannot be exported, or what was
            exported computes something else; no file is written then.
    """
    runtime.check_checkpoint(args.checkpoint)
    cfg = runtime.read_config_file(Path(args.config), args.cfg_options)
    out = Path(args.out)
    partial = out.with_name(f'.partial-{out.name}')  # until it is known to be right
    form = format_of(out)
    check_free(out)
    write = _write_int8 if args.int8 else _write
    try:
        options = dict(backbone_only=args.backbone, raw=args.raw)
        predict = verify.toolbox_model(cfg, args.checkpoint, **options)
        network = build_network(cfg, args.checkpoint, **options)
        print(f'exporting {type(network).__name__} ...', flush=True)
        about = describe(cfg, network)
        for note in [*notes(about), *([form.note] if form.note else [])]:
            print(f'note: {note}')
        write(args, cfg, predict, network, partial, about)
        for written, kept in zip(form.files(partial), form.files(out), strict=True):
            os.replace(written, kept)
    except (ValueError, ImportError, verify.ExportError) as error:
        raise runtime.UsageError(f'{error} Nothing was written.') from error
    finally:
        for written in form.files(partial):
            written.unlink(missing_ok=True)
    size = sum(file.stat().st_size for file in form.files(out))
    print(f'wrote {" and ".join(file.name for file in form.files(out))}, {size / 1e6:.1f} MB')
    shape = (args.batches[0], network.in_channels, *args.sizes[0])
    seconds = verify.time_beside(network, form.load(out), shape, args.repetitions)
    milliseconds = [f'{1e3 * s:.1f} ms' for s in seconds]
    print(
        f'{"x".join(map(str, shape))}: PyTorch {milliseconds[0]}, {form.runtime} '
        f'{milliseconds[1]} (median of {args.repetitions}, {torch.get_num_threads()} threads)'
    )


def _write(args, cfg, predict, network, out, about) -> None:
    files = args.images or verify.pictures_of(cfg)
    photographs = verify.read_photographs(files, cfg, network.in_channels)
    form, tolerance = format_of(out), 1e-4 if args.tolerance is None else args.tolerance
    form.export(network, out, about)
    for comparison in verify.compare(
        predict, network, form.load(out), args.sizes, args.batches, photographs, tolerance
    ):
        print(comparison, flush=True)


def _write_int8(args, cfg, predict, network, out, about) -> None:
    form, tolerance = format_of(out), 0.05 if args.tolerance is None else args.tolerance
    if out.suffix not in int8.FORMATS or args.backbone or args.raw:
        raise ValueError('--int8 is for whole networks as .onnx or .xml: leave it out.')
    files = verify.pictures_of(cfg, 'train', args.calibration)
    tested = args.images or verify.pictures_of(cfg, 'test', args.calibration)
    if not files or not tested:
        raise ValueError(
            '--int8 needs the pictures of train_dataloader and test_dataloader, which are not '
            f'there: tools/doctor.py {args.config} says what is missing.'
        )
    layers = int8.quantize(network, out, verify.prepare_pictures(files, cfg), about)
    print(f'calibrated on {len(files)} pictures: in int8 are convolutions and linear layers')
    print(f'in floating point is everything else, and of these: {", ".join(layers) or "none"}')
    pictures = verify.prepare_pictures(tested, cfg)
    share = verify.compare_decisions(predict, network, form.load(out), pictures, tolerance)
    print(f'{share:.1%} of its decisions on {len(tested)} pictures are those of the toolbox')


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no size, such as 224x320') from None
    return height, width
