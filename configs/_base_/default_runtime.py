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
# The share of unreadable training images that are replaced by others; more stop the run.
bad_image_limit = 0.001
# A loss or gradient that is not finite ends the run ('stop') or costs the batch ('skip');
# find_layer names the layer where it arose.
non_finite = dict(action='stop', find_layer=False)
