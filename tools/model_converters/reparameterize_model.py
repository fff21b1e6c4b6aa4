# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Fold the norms of a checkpoint's backbone, for faster inference.

Test the result with the same config and ``--cfg-options model.backbone.deploy=True``, or wherever
the backbone is in the config's model: the tool prints it.
"""

import argparse
from pathlib import Path

from mmdmformer.checkpoints import deploy_options, fold_checkpoint
from mmdmformer.engine import runtime
from mmdmformer.engine.model import build_model
from mmdmformer.engine.overrides import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file of the model')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', help='file to write, .pth or .safetensors')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={})
    return runtime.parse_allowing(parser)


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        runtime.check_checkpoint(args.checkpoint)
        cfg = runtime.read_config_file(Path(args.config), args.cfg_options)
        try:
            model = build_model(cfg)
            fold_checkpoint(model, args.checkpoint, args.out)
        except ValueError as error:
            raise runtime.UsageError(error) from error
    options = ' '.join(deploy_options(model, cfg.model))
    print(f'wrote {args.out}; use it with --cfg-options {options}')


if __name__ == '__main__':
    main()
