# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The production config on blood cells: half the resolution, smaller anchors, a longer schedule.
_base_ = '../dmformer/retinanet_dmformer-s_fpn_8xb2-1x_coco.py'

data_root = 'data/bccd'
classes = ('RBC', 'WBC', 'Platelets')
image_scale = (320, 240)  # pixels, from 640x480
batch_size = 4
num_workers = 1
max_epochs = 40
milestones = [28, 36]  # epochs
warmup_iters = 100

model = dict(
    bbox_head=dict(
        num_classes=len(classes),
        anchor_generator=dict(octave_base_scale=2),  # from 16 pixels: a platelet has 17
    ),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomResize', scale=image_scale, ratio_range=(0.8, 1.25), keep_ratio=True
)
# cells have no upper side
train_pipeline[3].update(prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_scale)
# CocoMetric takes the boxes of the XML files from there.
test_pipeline[3].update(meta_keys=(*test_pipeline[3].meta_keys, 'instances'))
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0][0].update(scale=image_scale)
pack = tta_pipeline[1].transforms[-1][0]
pack.update(meta_keys=(*pack.meta_keys, 'instances'))

dataset = dict(
    _delete_=True, type='XMLDataset', data_root=data_root, metainfo=dict(classes=classes)
)
lists = 'ImageSets/Main'
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(
        **dataset,
        ann_file=f'{lists}/train.txt',
        data_prefix=dict(sub_data_root=''),
        # one box of the training images has no area
        filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=1),
        pipeline=train_pipeline,
    ),
)
evaluation = dict(
    **dataset, data_prefix=dict(sub_data_root=''), test_mode=True, pipeline=test_pipeline
)
val_dataloader = dict(
    num_workers=num_workers, dataset=dict(**evaluation, ann_file=f'{lists}/val.txt')
)
test_dataloader = dict(
    num_workers=num_workers, dataset=dict(**evaluation, ann_file=f'{lists}/test.txt')
)
val_evaluator = [
    dict(type='mmdmformer.datasets.coco_metric.CocoMetric', metric='bbox'),
    dict(type='VOCMetric', metric='mAP', eval_mode='area'),
]
test_evaluator = val_evaluator

param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=warmup_iters)
param_scheduler[1].update(end=max_epochs, milestones=milestones)
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
auto_scale_lr = dict(base_batch_size=batch_size)
