# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Class activation maps: they lie where the reason is known to be, for each kind of model."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint
from PIL import Image
from torch import nn

pytest.importorskip('pytorch_grad_cam')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

from mmdmformer.analysis import cam
from mmdmformer.analysis.cam import explain, find_grid, split_arguments, to_map
from mmdmformer.analysis.cam_targets import (
    ExplainedClassifier,
    ExplainedDetector,
    ExplainedSegmentor,
    Request,
)
from mmdmformer.analysis.loaded_model import load_model
from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.engine.runtime import UsageError

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'tools/visualization/vis_cam.py'
MINI = REPOSITORY / 'configs/mini'
CLASSIFIER = MINI / 'dmformer-nano_mini-imagenet.py'
RETINANET = MINI / 'retinanet_dmformer-nano_fpn_mini-coco.py'
MASK_RCNN = MINI / 'mask-rcnn_dmformer-nano_fpn_mini-coco.py'
SEGMENTOR = MINI / 'dmformer-nano_sem-fpn_mini-ade20k.py'


@MODELS.register_module()
class QuadrantBackbone(nn.Module):
    """Channel i is the brightness of patches of 4 x 4 pixels in quadrant i, and 0 elsewhere."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.features = nn.Identity()

    def forward(self, x):
        brightness = nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4) * self.scale
        height, width = (side // 2 for side in brightness.shape[2:])
        masks = torch.zeros(4, *brightness.shape[2:])
        for i in range(4):
            top, left = i // 2 * height, i % 2 * width
            masks[i, top : top + height, left : left + width] = 1
        return (self.features(brightness * masks),)


@pytest.fixture(scope='module')
def quadrants(tmp_path_factory):
    """A classifier that names the brightest quadrant, saved as files."""
    folder = tmp_path_factory.mktemp('quadrants')
    (folder / 'config.py').write_text("""
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True),
    backbone=dict(type='QuadrantBackbone'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=4),
)
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)),
            dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(pipeline=pipeline))
""")
    weights = {'backbone.scale': torch.ones(()), 'head.fc.weight': torch.eye(4)}
    content = dict(
        state_dict={**weights, 'head.fc.bias': torch.zeros(4)},
        meta=dict(
            dataset_meta=dict(classes=('north-west', 'north-east', 'south-west', 'south-east'))
        ),
    )
    save_checkpoint(content, str(folder / 'weights.pth'))
    image = np.full((64, 64, 3), 60, np.uint8)
    image[:32, 32:] = (255, 200, 200)
    Image.fromarray(image).save(folder / 'image.png')
    return folder


@pytest.fixture(scope='module')
def brightest(quadrants):
    return load_model(quadrants / 'config.py', str(quadrants / 'weights.pth'))


@pytest.mark.parametrize('method', cam.METHODS)
def test_map_lies_where_the_decision_is_made(method, brightest, quadrants):
    result = explain(brightest, quadrants / 'image.png', method=method)
    assert result.target.caption.startswith('north-east ')
    assert result.values.shape == result.view.shape[:2] == (32, 32)
    assert result.values[:16, 16:].sum() > 0.93 * result.values.sum() > 0  # but for resampling


@pytest.mark.parametrize('wanted', ['2', 'south-west'])
def test_map_is_that_of_the_wanted_class(wanted, brightest, quadrants):
    result = explain(brightest, quadrants / 'image.png', Request(wanted))
    assert result.target.caption.startswith('south-west ')
    assert result.values[16:, :16].sum() > 0.93 * result.values.sum() > 0


def test_view_has_true_colors(brightest, quadrants):
    result = explain(brightest, quadrants / 'image.png')
    np.testing.assert_allclose(result.view[4, 28], np.array([255, 200, 200]) / 255, atol=1e-6)
    drawn = np.asarray(cam.draw(result, height=64))
    assert drawn.shape == (64, 64, 3)
    red, _, blue = drawn[16, 48].tolist()
    assert red > blue + 50  # hot
    red, _, blue = drawn[48, 16].tolist()
    assert blue > red + 50  # cold


SIDE_64 = {
    'test_dataloader.dataset.pipeline.1.scale': 71,
    'test_dataloader.dataset.pipeline.2.crop_size': 64,
}
NETWORKS = [
    ('backbone.stages.3', dict(type='DMFormer', arch='nano'), 128),
    ('backbone.layer4', dict(type='ResNet', depth=18), 512),
    ('backbone.norm3', dict(type='SwinTransformer', arch='tiny', pad_small_map=True), 768),
    ('backbone.norm3', dict(type='DynamicSwin', arch='nano', pad_small_map=True), 128),
    ('backbone.norm3', dict(type='SwinACmix', arch='nano'), 128),
    ('backbone.layers.3.1.1', dict(type='PVTACmix', arch='nano'), 128),
    ('backbone.layers.3.1.1.norm1', dict(type='PVTACmix', arch='nano', cls_token=True), 128),
    ('backbone.layers.3.ln1', dict(type='DynamicViT', arch='nano', img_size=64), 64),
    ('backbone.ln1', dict(type='DynamicViT', arch='nano', out_type='avg_featmap'), 64),
    ('backbone.layer4', dict(type='ResNetACmix', arch='nano'), 512),
    ('backbone.stages.3', dict(type='SANACmix', arch='nano'), 256),
]


@pytest.mark.parametrize('layer, backbone, channels', NETWORKS)
def test_default_layer_is_the_last_map_that_matters(layer, backbone, channels, mini_data):
    options = {'model.backbone': dict(_delete_=True, **backbone), **SIDE_64}
    options['model.head.in_channels'] = channels
    if backbone.get('cls_token') or backbone['type'] == 'DynamicViT':
        options['model.neck'] = None
    loaded = load_model(CLASSIFIER, 'none', options)
    image = mini_data / 'imagenet/val/digit_1/digit_1_00001.png'
    result = explain(loaded, image, Request('digit_7'), method='elementwise')
    assert result.layer == layer
    assert result.target.caption.startswith('digit_7 ')
    # signed products of gradients and features: without any influence they would all be 0
    assert result.values.max() > 0.9


@pytest.mark.parametrize(
    'shape, image_size, expected',
    [
        ((1, 8, 4, 6), (64, 96), (4, 6, 0)),
        ((1, 4, 6, 8), (64, 96), (4, 6, 0)),
        ((1, 24, 8), (64, 96), (4, 6, 0)),
        ((1, 25, 8), (64, 96), (4, 6, 1)),
        ((1, 8, 3, 5), (47, 70), (3, 5, 0)),  # stride 16, padded
        ((1, 8, 2, 4), (47, 70), (2, 4, 0)),  # and cut
        ((1, 15, 8), (47, 70), (3, 5, 0)),
        ((64, 49, 96), (224, 224), None),  # windows
        ((1, 512, 1, 1), (224, 224), None),
        ((1, 3, 224), (224, 224), None),
    ],
)
def test_layout_is_found(shape, image_size, expected):
    assert find_grid(shape, image_size) == expected


def test_layouts_come_out_as_one():
    feature = torch.rand(1, 8, 4, 6)
    tokens = feature.flatten(2).transpose(1, 2)
    with_class = torch.cat((torch.rand(1, 1, 8), tokens), 1)
    for given in (feature, feature.permute(0, 2, 3, 1), tokens, with_class):
        assert torch.equal(to_map(given, (64, 96)), feature)


def scene(mini_data, which='coco/val2017'):
    return sorted((mini_data / which).glob('*.jpg'))[0]


@pytest.mark.parametrize('config', [RETINANET, MASK_RCNN], ids=['RetinaNet', 'Mask R-CNN'])
def test_boxes_are_explained_by_their_scores(config, mini_data):
    options = {'test_dataloader.dataset.pipeline.1.scale': (64, 64)}
    thresholds = ['model.test_cfg.score_thr', 'model.test_cfg.rcnn.score_thr']
    options[thresholds[config == MASK_RCNN]] = 0.0  # untrained, it finds nothing else
    loaded = load_model(config, 'none', options)
    results = [explain(loaded, scene(mini_data), Request(box=i)) for i in (0, 3)]
    boxes = [result.target.box for result in results]
    assert boxes[0] != boxes[1]
    assert all(result.layer == 'backbone.stages.3' for result in results)
    # what the detector predicts by itself
    detector = ExplainedDetector(loaded)
    _, inputs, samples = cam.prepare_image(loaded, scene(mini_data))
    detector.samples = samples
    (scores,) = detector(inputs)
    (predicted,) = loaded.model.predict(inputs, samples, rescale=False)
    expected = predicted.pred_instances
    actual = scores if config == MASK_RCNN else scores.sigmoid()
    torch.testing.assert_close(actual, expected.scores, atol=1e-6, rtol=1e-5)
    assert boxes[0] == pytest.approx(expected.bboxes[0].tolist(), rel=1e-4, abs=1e-3)
    (gradient,) = torch.autograd.grad(scores[3], loaded.model.backbone.stages[3].norm.weight)
    assert gradient.abs().sum() > 0
    label = int(expected.labels[0])
    wanted = detector.choose(scores, Request(f'digit_{label}'))
    assert wanted.box == expected.bboxes[0].tolist()
    with pytest.raises(UsageError, match=r'--box 1000 is out of range: the boxes found .* 0 to '):
        explain(loaded, scene(mini_data), Request(box=1000))


@pytest.mark.parametrize('channels, color', [(1, 'grayscale'), (4, 'unchanged')])
@pytest.mark.parametrize('config', [CLASSIFIER, RETINANET, SEGMENTOR], ids=lambda path: path.stem)
def test_images_that_are_not_rgb(config, channels, color, tmp_path):
    # mmdet's preprocessor takes one number or three, and so does mmseg's in the fork
    numbers = channels if config == CLASSIFIER else 1
    options = {
        'model.backbone.in_channels': channels,
        'model.data_preprocessor.mean': [100.0] * numbers,
        'model.data_preprocessor.std': [50.0] * numbers,
        f'model.data_preprocessor.{"to_rgb" if config == CLASSIFIER else "bgr_to_rgb"}': False,
        'test_dataloader.dataset.pipeline.0.color_type': color,
    }
    if config == RETINANET:
        options['model.test_cfg.score_thr'] = 0.0
    image = tmp_path / 'image.png'
    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, channels), np.uint8)
    cv2.imwrite(str(image), pixels)
    result = explain(load_model(config, 'none', options), image)
    assert result.values.shape == result.view.shape[:2] and result.values.max() > 0.9
    if result.view.shape[:2] == (96, 64):
        seen = pixels[..., 2::-1] if channels == 4 else pixels.repeat(3, 2)
        np.testing.assert_allclose(result.view, seen / np.float32(255))
    assert cam.draw(result).mode == 'RGB'


ENCODER, DECODER = 'model.encoder.num_layers', 'model.decoder.num_layers'
HEAD = 'model.panoptic_head'
LAST_THREE = {'model.backbone.out_indices': (1, 2, 3), 'model.neck.in_channels': [32, 80, 128]}
QUERIES = {
    'detr/detr_r50_8xb2-150e_coco.py': {
        'model.backbone.out_indices': (3,), 'model.neck.in_channels': [128], ENCODER: 1, DECODER: 1,
    },
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': {
        **LAST_THREE, ENCODER: 1, DECODER: 1,
    },
    'dino/dino-4scale_r50_8xb2-12e_coco.py': {
        **LAST_THREE, ENCODER: 1, DECODER: 1, 'model.num_queries': 50,
        'model.test_cfg.max_per_img': 20,
    },
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py': {
        'model.backbone.out_indices': (0, 1, 2, 3),
        f'{HEAD}.in_channels': [16, 32, 80, 128],
        f'{HEAD}.pixel_decoder.encoder.num_layers': 1,
        f'{HEAD}.transformer_decoder.num_layers': 1,
    },
}  # fmt: skip


def with_queries(name):
    """A stock detector whose objects are queries, small and with the nano backbone."""
    stock = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim/configs' / name
    nano = dict(_delete_=True, type='mmdmformer.DMFormer', arch='nano')
    places = {key.split('.')[-1]: key for key in QUERIES[name] if 'backbone' in key}
    options = {key: value for key, value in QUERIES[name].items() if 'backbone' not in key}
    options['model.backbone'] = {**nano, **{k: QUERIES[name][v] for k, v in places.items()}}
    options['test_dataloader.dataset.pipeline.1.scale'] = (96, 96)
    return stock, options


@pytest.mark.parametrize('name', QUERIES)
def test_objects_of_queries_are_explained(name, mini_data):
    loaded = load_model(*with_queries(name)[:1], 'none', with_queries(name)[1])
    results = [
        explain(loaded, scene(mini_data), Request(box=i), method='elementwise') for i in (0, 3)
    ]
    _, inputs, samples = cam.prepare_image(loaded, scene(mini_data))
    with torch.no_grad():
        (predicted,) = loaded.model.predict(inputs, samples, rescale=False)
    for i, result in zip((0, 3), results, strict=True):
        assert result.layer == 'backbone.stages.3'
        assert result.values.max() > 0.9
        expected = predicted.pred_instances[i]
        assert result.target.box == pytest.approx(expected.bboxes[0].tolist(), abs=1e-2)
        score = f'{100 * expected.scores.item():.1f} %'
        assert result.target.caption.endswith(f' {score}')
    panoptic = loaded.model.test_cfg or {}
    if 'instance_on' in panoptic:
        panoptic.instance_on = loaded.model.panoptic_fusion_head.test_cfg.instance_on = False
        with pytest.raises(UsageError, match='predicts no objects .*instance_on=True'):
            explain(loaded, scene(mini_data))


def test_two_classes_of_one_channel_are_explained(mini_data):
    head = 'model.decode_head'
    options = {f'{head}.num_classes': 2, f'{head}.out_channels': 1, f'{head}.threshold': 0.4}
    options[f'{head}.loss_decode'] = dict(type='CrossEntropyLoss', use_sigmoid=True)
    loaded = load_model(SEGMENTOR, 'none', options)
    # about the threshold's logit, so that both classes are found
    torch.nn.init.constant_(loaded.model.decode_head.conv_seg.bias, -0.405)
    image = scene(mini_data, 'ade/ADEChallengeData2016/images/validation')
    _, inputs, samples = cam.prepare_image(loaded, image)
    with torch.no_grad():
        (predicted,) = loaded.model.predict(inputs, samples)
    labels = predicted.pred_sem_seg.data[0]
    shares = [100 * (labels == i).float().mean().item() for i in (0, 1)]
    assert min(shares) > 1
    for i in (0, 1):
        result = explain(loaded, image, Request(target_class=str(i)), method='elementwise')
        assert result.target.caption.endswith(f', {shares[i]:.1f} % of the image')
        assert result.values.max() > 0.9


def test_score_of_several_labels_is_the_models_own(mini_data):
    head = dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=10, in_channels=128)
    loaded = load_model(CLASSIFIER, 'none', {'model.head': head, **SIDE_64})
    image = mini_data / 'imagenet/val/digit_1/digit_1_00001.png'
    _, inputs, samples = cam.prepare_image(loaded, image)
    with torch.no_grad():
        (predicted,) = loaded.model.predict(inputs, samples)
    expected = f'digit_7 {100 * predicted.pred_score[7].item():.1f} %'
    assert explain(loaded, image, Request('digit_7')).target.caption == expected


def test_what_has_no_classes_is_named(mini_data, tmp_path):
    config = tmp_path / 'retrieval.py'
    config.write_text(f"""
_base_ = {str(CLASSIFIER)!r}
model = dict(_delete_=True, type='ImageToImageRetriever', prototype='unused.pth', image_encoder=[
    dict(type='mmdmformer.DMFormer', arch='nano'), dict(type='GlobalAveragePooling')])
""")
    image = mini_data / 'imagenet/val/digit_1/digit_1_00001.png'
    with pytest.raises(UsageError, match='a ImageToImageRetriever has no scores of classes'):
        explain(load_model(config, 'none'), image)


def test_no_box_leaves_the_image_as_it_is(mini_data):
    loaded = load_model(RETINANET, 'none')
    result = explain(loaded, scene(mini_data))
    assert result.target.caption == 'nothing found'
    expected = Image.fromarray((result.view * 255).astype(np.uint8))
    assert np.array_equal(cam.draw(result, 128), expected)


def test_pixels_and_regions_are_explained_by_their_scores(mini_data):
    loaded = load_model(SEGMENTOR, 'none')
    image = scene(mini_data, 'ade/ADEChallengeData2016/images/validation')
    segmentor = ExplainedSegmentor(loaded)
    _, inputs, samples = cam.prepare_image(loaded, image)
    segmentor.samples = samples
    (scores,) = segmentor(inputs)
    assert scores.shape == (11, 128, 128)
    pixel = segmentor.choose(scores, Request('digit_3', pixel=(100, 20)))
    assert pixel.score(scores) == scores[4, 20, 100]
    assert pixel.point == (100.5 / 128, 20.5 / 128)
    label = int(scores.argmax(0).flatten().mode().values)
    region = segmentor.choose(scores, Request())
    expected = (scores[label] * (scores.argmax(0) == label)).sum()
    torch.testing.assert_close(region.score(scores), expected, rtol=1e-4, atol=1e-3)
    assert region.caption.startswith(loaded.classes[label])
    result = explain(loaded, image, Request(pixel=(100, 20)), method='elementwise')
    assert result.values.shape == (96, 96) and result.values.max() > 0.9
    with pytest.raises(
        UsageError, match='--pixel 128 0 is outside of the image: its columns are 0'
    ):
        explain(loaded, image, Request(pixel=(128, 0)))


def test_class_beyond_the_names_is_called_by_its_index(brightest):
    explained = ExplainedClassifier(brightest)
    explained.classes = explained.classes[:3]
    captions = [explained.choose(torch.ones(4), Request(wanted)).caption for wanted in '23']
    assert captions[0].startswith('south-west') and captions[1].startswith('class 3')


@pytest.mark.parametrize(
    'wanted, sentence',
    [
        ('4', '--target-class 4 is out of range: the model has the classes 0 to 3'),
        ('-1', '--target-class -1 is out of range'),
        ('north-wets', 'no class named north-wets: did you mean north-west'),
        ('zebra', 'no class named zebra: give its index'),
    ],
)
def test_wrong_class_is_named(wanted, sentence, brightest, quadrants):
    with pytest.raises(UsageError, match=sentence):
        explain(brightest, quadrants / 'image.png', Request(wanted))


@pytest.mark.parametrize(
    'layer, sentence',
    [
        ('backbone.feature', 'the nearest names are backbone.features'),
        ('head.fc', r'head.fc gives a tensor of shape \(1, 4\), not a map of the image: take one'),
        ('neck', 'neck gives a tuple, not a map'),
        ('head.loss_module', 'does not run by itself'),
    ],
)  # fmt: skip
def test_wrong_layer_is_named(layer, sentence, brightest, quadrants):
    with pytest.raises(UsageError, match=sentence):
        explain(brightest, quadrants / 'image.png', layer=layer)


def test_wrong_image_is_named(brightest, tmp_path):
    with pytest.raises(UsageError, match='nowhere.png does not exist'):
        explain(brightest, 'nowhere.png')
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(BadInputError, match='broken.png cannot be read .* restore the file'):
        explain(brightest, tmp_path / 'broken.png')


def test_a_config_without_a_test_pipeline_is_named(mini_data):
    loaded = load_model(CLASSIFIER, 'none', dict(test_dataloader=None))
    with pytest.raises(UsageError, match='mini-imagenet.py has no test pipeline'):
        explain(loaded, scene(mini_data))


@pytest.mark.parametrize(
    'paths',
    ['a.png', 'a.png b.py', 'b.py none', 'a.png b.py none c.py', 'a.png b.py c.py none none',
     'a.png b.py none c.pth none'],
)  # fmt: skip
def test_arguments_in_disorder_are_refused(paths):
    with pytest.raises(UsageError, match='are not IMAGE... CONFIG CHECKPOINT'):
        split_arguments(paths.split())


def test_tool_draws_models_side_by_side(python, quadrants, mini_data, tmp_path):
    image, other = (mini_data / f'imagenet/val/digit_{i}/digit_{i}_0000{i}.png' for i in (1, 2))
    result = python(
        TOOL, image, other, CLASSIFIER, 'none', SEGMENTOR, 'none', '--height', '50',
        '--target-class', 'digit_1', '--titles', 'one', 'two', '--layer', 'backbone.stages.1',
        cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'two: gradcam of backbone.stages.1' in result.stdout
    with Image.open(tmp_path / 'work_dirs/cam/cam.png') as picture:
        assert picture.size == (8 + 3 * (50 + 8), 8 + 18 + 2 * (50 + 18 + 8))
        cell = picture.crop((8, 26, 58, 76))
    with Image.open(image) as original:
        expected = original.convert('RGB').resize((50, 50))
    assert np.array_equal(np.asarray(cell), np.asarray(expected))
    for arguments, sentence in (
        (('nowhere.png', CLASSIFIER, 'none'), 'error: image nowhere.png does not exist'),
        ((image, CLASSIFIER, 'nowhere.pth'), 'error: checkpoint nowhere.pth does not exist'),
        ((image, CLASSIFIER, 'none', '--titles', 'a', 'b'), 'error: --titles has 2 titles for 1'),
        ((image, CLASSIFIER, 'none', '--box', '0'), 'error: --box is for models of detection'),
        ((image, CLASSIFIER, 'none', '--pixel', '1', '1'), '--pixel is for models of segmentation'),
    ):
        result = python(TOOL, *arguments, cwd=tmp_path)
        assert result.returncode == 2 and 'Traceback' not in result.stderr
        assert sentence in result.stderr.splitlines()[-1]
