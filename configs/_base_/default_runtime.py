# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
custom_imports = dict(imports=['mmdmformer'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend')]
log_level = 'INFO'
load_from = None
resume = False
# A fixed seed, so that a run can be repeated; each process draws its own augmentations from it.
randomness = dict(seed=0, diff_rank_seed=True, deterministic=False)
default_hooks = dict(
    # going on from the newest intact checkpoint, on the schedule of this config
    resume=dict(type='ResumeHook'),
    # objects with a fault are left out and named, or refused ('refuse'), before the first step
    annotations=dict(type='AnnotationsHook', bad_objects='leave_out'),
    # the share of unreadable training images that are replaced by others; more stop the run
    images=dict(type='UnreadableImagesHook', limit=0.001),
    # a loss or gradient that is not finite ends the run ('stop') or costs the batch ('skip');
    # find_layer names the layer where it arose
    non_finite=dict(type='NonFiniteHook', action='stop', find_layer=False),
    # SIGTERM and SIGUSR1 of a scheduler: save, and end with code 75
    signals=dict(type='SignalHook'),
    batch_size=dict(type='BatchSizeHook'),
    average_under_tta=dict(type='AverageUnderTTAHook'),
)
