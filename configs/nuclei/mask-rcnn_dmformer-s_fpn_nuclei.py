# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The production config on nuclei: crops, smaller anchors, up to 400 objects, a longer schedule.
_base_ = '../dmformer/mask-rcnn_dmformer-s_fpn_8xb2-1x_coco.py'

data_root = 'data/nuclei'
classes = ('nucleus',)
crop_size = (256, 256)  # the size of half of the images
enlargement = 1.25  # of test images; of training images, 1 to 1.5
max_objects = 400  # in a test image
batch_size = 4
num_workers = 1
max_epochs = 20
milestones = [14, 18]  # epochs
warmup_iters = 100

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),  # from 16 pixels
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes)), mask_head=dict(num_classes=len(classes))
    ),
    test_cfg=dict(rcnn=dict(max_per_img=max_objects)),
)

train_pipeline = _base_.train_pipeline
# cut before enlarging: a mask is as large as its image
train_pipeline[2] = dict(type='RandomCrop', crop_size=crop_size, recompute_bbox=True)
train_pipeline[3:3] = [
    # RandomCrop keeps a nucleus of which only the box reaches into the crop; it would train to NaN
    dict(type='FilterAnnotations', by_mask=True),
    dict(type='RandomResize', scale=crop_size, ratio_range=(1.0, 1.5), keep_ratio=True),
]
# a microscope's picture has no upper side
train_pipeline[5].update(prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal'])
test_pipeline = _base_.test_pipeline
test_pipeline[1] = dict(type='Resize', scale_factor=enlargement, keep_ratio=True)

# tools/dataset_converters/instance_masks.py writes the annotations.
dataset = dict(
    data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='stage1_train/')
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    dataset=dict(**dataset, ann_file='annotations/train.json', pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=num_workers,
    dataset=dict(**dataset, ann_file='annotations/val.json', pipeline=test_pipeline),
)
test_dataloader = dict(
    num_workers=num_workers,
    dataset=dict(**dataset, ann_file='annotations/test.json', pipeline=test_pipeline),
)
val_evaluator = dict(
    ann_file=f'{data_root}/annotations/val.json', proposal_nums=(1, 10, max_objects)
)
test_evaluator = dict(
    ann_file=f'{data_root}/annotations/test.json', proposal_nums=(1, 10, max_objects)
)

param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=warmup_iters)
param_scheduler[1].update(end=max_epochs, milestones=milestones)
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
auto_scale_lr = dict(base_batch_size=batch_size)
