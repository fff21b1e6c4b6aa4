# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The production config on small images, and fewer of them.
_base_ = '../dmformer/dmformer-s_8xb128_in1k.py'

data_root = 'data/cifar10'
classes = (
    *('airplane', 'automobile', 'bird', 'cat', 'deer'),
    *('dog', 'frog', 'horse', 'ship', 'truck'),
)
image_size = 48  # pixels, from 32
batch_size = 128
num_workers = 1
max_epochs = 100
warmup_epochs = 5

model = dict(
    data_preprocessor=dict(num_classes=len(classes)),
    backbone=dict(drop_path_rate=0.1),
    head=dict(num_classes=len(classes)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=image_size, crop_ratio_range=(0.6, 1.0))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=image_size)
test_pipeline[2].update(crop_size=image_size)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].update(
    transforms=[[test_pipeline[1]], [test_pipeline[2]], *tta_pipeline[1].transforms[2:]]
)

# tools/dataset_converters/split_folders.py writes the two lists of the training images.
dataset = dict(
    _delete_=True, type='CustomDataset', data_root=data_root, metainfo=dict(classes=classes)
)
loader = dict(batch_size=batch_size, num_workers=num_workers, persistent_workers=num_workers > 0)
train_dataloader = dict(
    **loader,
    dataset=dict(**dataset, data_prefix='train', ann_file='train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(
    **loader,
    dataset=dict(**dataset, data_prefix='train', ann_file='val.txt', pipeline=test_pipeline),
)
test_dataloader = dict(
    **loader, dataset=dict(**dataset, data_prefix='test', pipeline=test_pipeline)
)

param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=warmup_epochs)
param_scheduler[1].update(T_max=max_epochs - warmup_epochs, begin=warmup_epochs, end=max_epochs)
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=batch_size)
