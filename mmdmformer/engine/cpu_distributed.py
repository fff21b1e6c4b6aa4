# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Distributed training without GPUs.

mmengine's runner binds each process to a GPU, once when it starts torch.distributed, and once when
it wraps the model.
"""

from datetime import timedelta

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS

from ..registry import type_name


@MODEL_WRAPPERS.register_module()
class CPUReadyDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper, for models on a GPU or on the CPU.

    On the CPU no GPU is bound, and batch norm is not synchronized, as torch's synchronized batch
    norm refuses CPU tensors.

    Args:
        module (nn.Module): The model.
        device_ids (list[int], optional): The GPU of this process; ignored on the CPU.
            Defaults to None.
        kwargs: Further arguments of ``torch.nn.parallel.DistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **kwargs) -> None:
        if get_device() == 'cpu':
            device_ids = None
            if any(isinstance(m, nn.SyncBatchNorm) for m in module.modules()):
                print_log('No GPU: batch norm is not synchronized.', logger='current')
                module = revert_sync_batchnorm(module)
        super().__init__(module=module, device_ids=device_ids, **kwargs)


def distribute_on_cpu(cfg: Config) -> None:
    """Start torch.distributed and let mmengine's runner use it.

    Args:
        cfg (Config): Its ``model_wrapper_cfg`` is set, or told to bind no GPU. Processes wait
            for each other ``env_cfg.dist_cfg.timeout`` seconds, as mmengine's do on GPUs.
    """
    seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    timeout = None if seconds is None else timedelta(seconds=seconds)
    torch.distributed.init_process_group('gloo', timeout=timeout)
    if cfg.get('model_wrapper_cfg') is None:
        cfg.model_wrapper_cfg = dict(
            type='CPUReadyDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        return
    cfg.model_wrapper_cfg.device_ids = None
    if (
        type_name(cfg.model_wrapper_cfg.get('type', 'MMDistributedDataParallel'))
        == 'MMDistributedDataParallel'
    ):
        cfg.model_wrapper_cfg.type = 'CPUReadyDistributedDataParallel'
