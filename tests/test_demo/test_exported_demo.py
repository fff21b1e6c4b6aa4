# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the demo makes of JPEG files and an exported file alone is what the toolbox predicts."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import exported as shared
from mmdmformer.checkpoints import load_complete, shipped_file
from mmdmformer.deploy import metadata, networks
from mmdmformer.deploy.formats import FORMATS
from mmdmformer.engine.model import build_model

REPOSITORY = Path(__file__).parents[2]
DEMOS = {
    '.onnx': 'onnx_demo',
    '.xml': 'openvino_demo',
    '.param': 'ncnn_demo',
    '.pte': 'executorch_demo',
}
LINES = {'onnx_demo': 60, 'openvino_demo': 60, 'ncnn_demo': 70, 'executorch_demo': 70}
BCCD = 'retinanet_dmformer-nano_fpn_bccd'
CELLS = REPOSITORY / f'weights/{BCCD}.safetensors'
SEGMENTOR = 'mini/dmformer-nano_sem-fpn_mini-ade20k'


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Two JPEG files of different sizes: red cells before a pale background, as if magnified."""
    folder = tmp_path_factory.mktemp('photos')
    files, generator = [], np.random.default_rng(0)
    for i, (height, width) in enumerate([(240, 320), (333, 250)]):
        picture = np.full((height, width, 3), (215, 215, 225), np.uint8)  # BGR
        for x, y in generator.uniform(0.05, 0.95, (24, 2)) * (width, height):
            cv2.circle(picture, (int(x), int(y)), 24, (120, 110, 190), -1, cv2.LINE_AA)
            cv2.circle(picture, (int(x), int(y)), 9, (150, 140, 205), -1, cv2.LINE_AA)
        noisy = picture + generator.normal(0, 4, picture.shape)
        files.append(str(folder / f'{i}.jpg'))
        cv2.imwrite(files[-1], noisy.clip(0, 255).astype(np.uint8))
    return files


@pytest.fixture(params=DEMOS)
def suffix(request):
    """The suffix of a format, whose runtime is installed."""
    package = DEMOS[request.param].removesuffix('_demo')
    pytest.importorskip(package, reason='make runtimes installs it')
    return request.param


@pytest.fixture
def exported(suffix, tmp_path):
    """Exports a config's model, and gives it as its toolbox builds it, beside the file."""

    def export(name, checkpoint=None, **changes):
        cfg = Config.fromfile(REPOSITORY / f'configs/{name}.py')
        cfg.merge_from_dict(changes)
        torch.manual_seed(0)
        model = build_model(cfg)
        if checkpoint is None:
            checkpoint = tmp_path / 'model.pth'
            torch.save(dict(state_dict=model.state_dict()), checkpoint)
        load_complete(model, str(checkpoint))
        network = networks.build_network(cfg, str(checkpoint))
        if suffix in ('.param', '.pte') and (network.divisor != 1 or network.counts == 'boxes'):
            pytest.skip(
                'neither ncnn nor ExecuTorch can, as tests/test_clients/test_runtimes.py shows'
            )
        file = tmp_path / f'network{suffix}'
        FORMATS[suffix].export(network, file, metadata.describe(cfg, network))
        return cfg, model.eval(), file

    return export


def predict_by_toolbox(cfg, model, files):
    steps = cfg.test_dataloader.dataset.pipeline
    steps = [step for step in steps if 'Annotations' not in step['type']]
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.no_grad():
        pipeline = Compose(steps)
        batch = [pipeline(dict(img_path=file, img_id=i)) for i, file in enumerate(files)]
        if cfg.default_scope == 'mmseg':  # which takes one size at a time
            return [model.test_step(pseudo_collate([data]))[0] for data in batch]
        return model.test_step(pseudo_collate(batch))


def demo_of(file):
    return REPOSITORY / f'demo/{DEMOS[file.suffix]}.py'


def run_demo(file, photos):
    read = importlib.import_module(demo_of(file).stem).read
    return shared.predict(*read(str(file)), photos)


@pytest.mark.parametrize(('name', 'limit'), LINES.items())
def test_it_is_short(name, limit):
    files = [REPOSITORY / f'demo/{each}.py' for each in ('exported', name)]
    lines = ''.join(file.read_text() for file in files).splitlines()
    assert len([line for line in lines if line]) <= limit


PADDED = {'model.data_preprocessor.pad_value': 1, 'model.data_preprocessor.bgr_to_rgb': False}


@pytest.mark.parametrize('changes', [{}, PADDED], ids=['config', 'BGR, padded with ones'])
def test_boxes_of_a_batch_of_two_sizes(changes, exported, photos):
    cfg, model, file = exported(f'bccd/{BCCD}', CELLS, **changes)
    expected = predict_by_toolbox(cfg, model, photos)
    for photo, (boxes, scores, labels), sample in zip(
        photos, run_demo(file, photos), expected, strict=True
    ):
        theirs = sample.pred_instances.numpy()
        assert (theirs.scores > 0.3).sum() >= (1 if changes else 5)
        np.testing.assert_allclose(scores, theirs.scores, atol=1e-5)
        same = labels == theirs.labels
        assert same.mean() > 0.98  # boxes of equal scores may change places
        np.testing.assert_allclose(boxes[same], theirs.bboxes[same], atol=0.01)
        height, width = cv2.imread(photo).shape[:2]
        assert (boxes[:, 2:].max(0) <= (width + 1e-3, height + 1e-3)).all()
        assert boxes[:, 2].max() > width - 1 and boxes[:, 3].max() > height - 1


IMAGENET = {
    'test_dataloader.dataset.pipeline': [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=72, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=64),
        dict(type='PackInputs'),
    ]
}
HEAD = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=128)
SEVERAL = {'model.head': dict(_delete_=True, **HEAD)}


@pytest.mark.parametrize(
    'changes', [{}, IMAGENET, SEVERAL], ids=['CIFAR-10', 'ImageNet', 'several']
)
def test_scores_of_classes(changes, exported, photos):
    checkpoint = None if changes is SEVERAL else shipped_file('dmformer-nano_cifar10')
    cfg, model, file = exported('cifar10/dmformer-nano_cifar10', checkpoint, **changes)
    expected = [sample.pred_score.numpy() for sample in predict_by_toolbox(cfg, model, photos)]
    scores = run_demo(file, photos)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores[0]) > 0.01


def scaled(**step):
    size = dict(type='Resize', scale=(128, 96), keep_ratio=True)
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
    return {'test_dataloader.dataset.pipeline': [load, size, *([step] if step else []), pack]}


BINARY = {
    'model.decode_head.num_classes': 2,
    'model.decode_head.out_channels': 1,
    'model.decode_head.threshold': 0.4,
    'model.decode_head.loss_decode': dict(type='CrossEntropyLoss', use_sigmoid=True),
}
SEGMENTORS = {
    'multiples': scaled(type='ResizeToMultiple', size_divisor=32),
    'padded': {**scaled(), 'model.data_preprocessor.test_cfg': dict(size_divisor=32)},
    'two classes': {**scaled(), **BINARY},
}


@pytest.mark.parametrize('changes', SEGMENTORS.values(), ids=SEGMENTORS)
def test_labels_of_pixels(changes, exported, photos):
    cfg, model, file = exported(SEGMENTOR, **changes)
    expected = predict_by_toolbox(cfg, model, photos)
    for photo, labels, sample in zip(photos, run_demo(file, photos), expected, strict=True):
        theirs = sample.pred_sem_seg.data[0].numpy()
        assert labels.shape == theirs.shape == cv2.imread(photo).shape[:2]
        assert (labels == theirs).mean() > 0.999
        assert len(np.unique(theirs)) > 1


def test_file_says_the_way_from_picture_to_boxes(exported, photos):
    _, _, file = exported(f'bccd/{BCCD}', CELLS, **{'test_dataloader.dataset.metainfo': {}})
    about, _ = importlib.import_module(demo_of(file).stem).read(str(file))
    assert about['task'] == 'detection' and about['color_order'] == 'RGB'
    about = {key: json.loads(text) for key, text in about.items() if text[0] in '[{'}
    assert about['value_range'] == [0, 255]
    assert about['classes'] == ['RBC', 'WBC', 'Platelets']  # of the checkpoint alone
    assert about['pipeline'] == [
        dict(type='LoadImageFromFile', color_type='color', imdecode_backend='cv2'),
        dict(
            type='Resize',
            scale=[320, 240],
            keep_ratio=True,
            interpolation='bilinear',
            backend='cv2',
        ),
    ]
    np.testing.assert_allclose(about['normalization']['mean'], [123.675, 116.28, 103.53])
    assert about['padding']['divisor'] == 32
    np.testing.assert_allclose(about['padding']['value'], [123.675, 116.28, 103.53])
    assert about['thresholds']['score'] == 0.05 and about['thresholds']['iou'] == 0.5
    assert set(about['outputs']) == {'boxes', 'scores', 'labels', 'images_of_boxes'}
    # It needs nothing of what the network was trained with.
    demo = demo_of(file)
    code = f'import runpy, sys; sys.argv = {["", str(file), *photos]}\n'
    code += f'sys.path.insert(0, {str(demo.parent)!r})\n'  # as for a script
    code += f"runpy.run_path({str(demo)!r}, run_name='__main__')\n"
    code += "assert not {'torch', 'mmengine', 'mmdmformer'} & set(sys.modules)"
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('["RBC", "WBC", "Platelets"]')


def test_what_a_file_cannot_say_is_noted():
    cfg = Config.fromfile(REPOSITORY / f'configs/{SEGMENTOR}.py')
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale_factor=0.5))
    cfg.test_dataloader.dataset.pipeline.insert(2, dict(type='CLAHE'))
    about = dict(align_corners=True, thresholds=dict(min_bbox_size=8))
    about['pipeline'] = metadata.describe_pipeline(cfg)
    assert metadata.notes(about) == [
        'the file does not say what Resize of the test pipeline does: repeat it with each picture.',
        'the file does not say what CLAHE of the test pipeline does: repeat it with each picture.',
        'logits are scaled to the picture with aligned corners.',
        'min_bbox_size counts pixels of the input here, of the picture in mmdet.',
    ]
