# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Exported networks compute what the toolboxes' models do, for any batch and any sides."""

import copy
import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from onnxruntime import InferenceSession, SessionOptions
from torch import nn

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.deploy import command, int8, networks, onnx_export, torch_export, verify
from mmdmformer.deploy.metadata import describe
from mmdmformer.deploy.packages import need
from mmdmformer.deploy.resampling import AdaptiveAveragePool
from mmdmformer.engine.model import build_model
from mmdmformer.engine.runtime import UsageError

ROOT = Path(__file__).resolve().parents[2]
SIZES, BATCHES = ((64, 96), (103, 80)), (1, 3)
# name: config, then the arguments of build_network
KINDS = {
    'classifier': ('dmformer-nano_mini-imagenet.py', {}),
    'backbone': ('dmformer-nano_mini-imagenet.py', dict(backbone_only=True)),
    'head': ('retinanet_dmformer-nano_fpn_mini-coco.py', dict(raw=True)),
    'boxes': ('retinanet_dmformer-nano_fpn_mini-coco.py', {}),
    'semantic FPN': ('dmformer-nano_sem-fpn_mini-ade20k.py', {}),
    'UperNet': ('dmformer-nano_upernet_mini-ade20k.py', {}),
}
each_kind = pytest.mark.parametrize('kind', KINDS)


def read(name):
    cfg = Config.fromfile(ROOT / 'configs/mini' / name)
    if cfg.model.type == 'RetinaNet':
        cfg.model.test_cfg.score_thr = 0.0  # an untrained model is sure of nothing
    return cfg


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A config, its checkpoint with statistics as after training, what the toolbox predicts, and
    the network."""
    folder, made = tmp_path_factory.mktemp('checkpoints'), {}

    def build(kind):
        if kind not in made:
            name, options = KINDS[kind]
            cfg, path = read(name), folder / f'{name}.pth'
            torch.manual_seed(0)
            model = build_model(cfg)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.running_mean, -0.3, 0.3)
                    nn.init.uniform_(module.running_var, 0.7, 1.4)
            torch.save(dict(state_dict=model.state_dict()), path)
            made[kind] = cfg, path, *both(cfg, path, **options)
        return made[kind]

    return build


def both(cfg, path, **options):
    predict = verify.toolbox_model(cfg, str(path), **options)
    return predict, networks.build_network(cfg, str(path), **options)


def compare(predict, network, run, sizes=SIZES):
    results = list(verify.compare(predict, network, run, sizes, BATCHES))
    assert len(results) == len(sizes) * len(BATCHES) * 2
    assert {r.kind for r in results} == {'noise', 'pictures'}
    return results


@each_kind
def test_onnx(kind, built, tmp_path):
    *_, predict, network = built(kind)
    path = tmp_path / 'new' / 'network.onnx'
    onnx_export.export(network, path, dict(classes=['a', 'b']))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {''}  # ONNX's own operators
    assert not model.functions
    image, *sizes = model.graph.input
    assert [each.name for each in sizes] == list(network.input_names[1:])
    dims = image.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ['batch', 3, 'height', 'width']
    assert [out.name for out in model.graph.output] == list(network.output_names)
    assert {p.key: p.value for p in model.metadata_props}['classes'] == '["a", "b"]'
    results = compare(predict, network, onnx_export.load(path, threads=1))
    assert {r.counts for r in results} == {network.counts}


@pytest.mark.parametrize('channels, color', [(1, 'grayscale'), (4, 'unchanged')])
@pytest.mark.parametrize('kind', ['classifier', 'boxes', 'semantic FPN'])
def test_images_that_are_not_rgb(kind, channels, color, tmp_path):
    cfg = read(KINDS[kind][0])
    cfg.model.backbone.in_channels = channels
    preprocessor = cfg.model.data_preprocessor
    preprocessor.update({name: False for name in ('to_rgb', 'bgr_to_rgb') if name in preprocessor})
    # mmdet's takes one number or three, and so does mmseg's in the fork
    numbers = channels if kind == 'classifier' else 1
    preprocessor.update(
        mean=[100.0 + i for i in range(numbers)], std=[50.0 + i for i in range(numbers)]
    )
    cfg.test_dataloader.dataset.pipeline[0].color_type = color
    torch.manual_seed(0)
    checkpoint, picture = tmp_path / 'model.pth', tmp_path / 'picture.png'
    torch.save(dict(state_dict=build_model(cfg).state_dict()), checkpoint)
    predict, network = both(cfg, checkpoint)
    path = tmp_path / 'network.onnx'
    onnx_export.export(network, path, describe(cfg, network))
    run = onnx_export.load(path, threads=1)
    compare(predict, network, run)
    # a picture of the config's own kind, with noise that tells its channels apart
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, channels), np.uint8)
    cv2.imwrite(str(picture), pixels)
    (read_back,) = verify.read_photographs([str(picture)], cfg, channels)
    assert np.array_equal(read_back.permute(1, 2, 0), pixels)
    list(verify.compare(predict, network, run, [(70, 90)], [1], [read_back]))
    cv2.imwrite(str(picture), pixels[..., :1].repeat(3, 2))
    cfg.test_dataloader.dataset.pipeline[0].color_type = 'color'
    with pytest.raises(UsageError, match=f'has 3 channels where the model takes {channels}: give'):
        verify.read_photographs([str(picture)], cfg, channels)


SMALLEST = dict.fromkeys(KINDS, 35) | {'head': 129}  # sides in pixels, for torch.export


@pytest.mark.slow
@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'boxes'])
def test_torch_export(kind, built, tmp_path):
    *_, predict, network = built(kind)
    path = tmp_path / 'new' / 'network.pt2'
    torch_export.export(network, path, dict(classes=['a', 'b']))
    run, side = torch_export.load(path), SMALLEST[kind]
    compare(predict, network, run, [(side, 200), (224, side)])
    with pytest.raises(
        ValueError, match=f'of {side - 1}x200 pixels: give sides of at least 35, or'
    ):
        run(torch.rand(1, 3, side - 1, 200))
    files = {'metadata.json': ''}
    torch.export.load(str(path), extra_files=files)
    assert json.loads(files['metadata.json']) == dict(classes=['a', 'b'])


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'boxes'])
def test_torchscript(kind, built, tmp_path):
    *_, predict, network = built(kind)
    torch_export.export(network, tmp_path / 'network.pt')
    compare(predict, network, torch_export.load(tmp_path / 'network.pt'))


@pytest.mark.parametrize(
    ('kind', 'name', 'message'),
    [
        ('boxes', 'n.pt', 'TorchScript has no operator for the choice of boxes'),
        ('boxes', 'n.pt2', 'torch.export has no operator for the choice of boxes'),
    ],
)
def test_formats_that_cannot_express_a_network(kind, name, message, built, tmp_path):
    with pytest.raises(ValueError, match=message):
        torch_export.export(built(kind)[-1], tmp_path / name)
    assert not (tmp_path / name).exists()


# The networks beside the toolboxes' own predictions


@pytest.mark.parametrize('order', ['RGB', 'BGR'])
@pytest.mark.parametrize('kind', [k for k in KINDS if k not in ('backbone', 'head')])
def test_networks_give_what_the_toolboxes_predict(kind, order, built):
    """Here without :mod:`verify`, whose own reading of predictions this checks."""
    cfg, path, _, plain = built(kind)
    if order == 'BGR':  # a config that leaves images as they are loaded
        cfg = copy.deepcopy(cfg)
        flag = 'to_rgb' if kind == 'classifier' else 'bgr_to_rgb'
        cfg.merge_from_dict({f'model.data_preprocessor.{flag}': False})
        plain = networks.build_network(cfg, str(path))
    model = build_model(cfg).eval()
    model.load_state_dict(torch.load(path)['state_dict'])
    rgb = torch.randint(0, 256, (2, 3, 70, 101), generator=torch.Generator().manual_seed(0))
    samples = predict_by_toolbox(model, cfg, rgb)
    with torch.no_grad():
        outs = plain(rgb.float())
    if kind == 'classifier':
        scores = torch.stack([sample.pred_score for sample in samples])
        torch.testing.assert_close(outs.softmax(1), scores, rtol=1e-5, atol=1e-6)
    elif kind == 'boxes':
        found = [sample.pred_instances for sample in samples]
        expected = [torch.cat([f[name] for f in found]) for name in ('bboxes', 'scores', 'labels')]
        image = torch.cat([torch.full((len(f),), i) for i, f in enumerate(found)])
        assert len(image) == len(outs[0]) > 20
        assert torch.equal(outs[3], image)
        torch.testing.assert_close(outs[1], expected[1])  # the best first
        same, theirs = verify.match_boxes(outs, [*expected, image], 0.01, 'of mmdet')
        torch.testing.assert_close(same[0], theirs[0], rtol=1e-4, atol=1e-3)
        assert outs[0][:, 0::2].max() <= 101 and outs[0][:, 1::2].max() <= 70
    else:
        logits = torch.stack([sample.seg_logits.data for sample in samples])
        torch.testing.assert_close(outs[0], logits, rtol=1e-4, atol=1e-4)
        labels = torch.cat([sample.pred_sem_seg.data for sample in samples])
        assert (outs[1] == labels).float().mean() > 0.999


def predict_by_toolbox(model, cfg, rgb):
    """What the model's test step gives for images as its pipeline loads them, in BGR."""
    bgr = rgb.flip(1).to(torch.uint8)
    meta = dict(img_shape=(70, 101), ori_shape=(70, 101), scale_factor=(1.0, 1.0))
    meta.update(pad_shape=(70, 101), padding_size=[0] * 4, flip=False)
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.structures import DataSample
    elif cfg.default_scope == 'mmdet':
        from mmdet.structures import DetDataSample as DataSample
    else:
        from mmseg.structures import SegDataSample as DataSample
    inputs = bgr if cfg.default_scope == 'mmpretrain' else list(bgr)
    data = dict(inputs=inputs, data_samples=[DataSample(metainfo=meta) for _ in bgr])
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.no_grad():
        return model.test_step(data)


@pytest.mark.parametrize('size', [1, 2, 3, 6])
@pytest.mark.parametrize('shape', [(1, 1), (2, 3), (7, 6), (16, 25)])
def test_pooling_is_torchs(size, shape):
    x = torch.rand(2, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(AdaptiveAveragePool(size)(x), nn.AdaptiveAvgPool2d(size)(x))


def test_no_adaptive_pooling_is_left(built):
    pools = [m for m in built('UperNet')[-1].modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    assert {m.output_size for m in pools} == {1}


def test_export_is_folded(built):
    assert built('classifier')[-1].backbone.deploy


# What the comparison notices


@pytest.mark.parametrize(
    ('kind', 'change', 'message'),
    [
        ('classifier', lambda x: x * 1.1, 'logits on noise of 1x3x64x96 differ by'),
        ('classifier', lambda x: x * float('nan'), 'logits on noise of 1x3x64x96 differ by nan'),
        ('classifier', lambda x: x[:, 1:], r'has shape \(1, 9\), not \(1, 10\)'),
        ('semantic FPN', lambda x: (x + 1) if not x.is_floating_point() else x, 'labels on noise'),
        ('boxes', lambda x: x[: len(x) // 2], 'only .* boxes on noise of 1x3x64x96 are the same'),
        ('boxes', lambda x: x[:0], 'only 0 of .* boxes'),
        ('boxes', lambda x: x + 1, 'only 0 of .* boxes'),
    ],
)
def test_differences_are_found(kind, change, message, built):
    *_, predict, network = built(kind)

    def run(images):
        with torch.no_grad():
            outs = network(images)
        return [change(out) for out in ((outs,) if isinstance(outs, torch.Tensor) else outs)]

    with pytest.raises(verify.ExportError, match=message):
        list(verify.compare(predict, network, run, SIZES, BATCHES))


# Settings that change what a file must compute


SETTINGS = {
    'class-agnostic suppression': ('boxes', {'test_cfg.nms.class_agnostic': True}),
    'no suppression': ('boxes', {'test_cfg.nms': None}),
    'threshold and limit in nms': (
        'boxes',
        {'test_cfg.nms': dict(_delete_=True, iou_thr=0.3, score_threshold=0.02, max_num=15)},
    ),
    'all before suppression': ('boxes', {'test_cfg.nms_pre': -1}),
    'all after suppression': ('boxes', {'test_cfg.max_per_img': -1}),
    'least settings': (
        'boxes',
        {'test_cfg': dict(_delete_=True, nms=dict(iou_threshold=0.5), max_per_img=50)},
    ),
    'padding of a detector': ('boxes', {'data_preprocessor.pad_value': 114}),
    'no clipping': ('boxes', {'bbox_head.bbox_coder.clip_border': False}),
    'padding of a segmentor': (
        'semantic FPN',
        {'data_preprocessor.test_cfg': dict(size_divisor=32), 'data_preprocessor.pad_val': 3},
    ),
    'padding of a classifier': (
        'classifier',
        {'data_preprocessor.pad_size_divisor': 32, 'data_preprocessor.pad_value': 2},
    ),
    'several labels': (
        'classifier',
        {'head': dict(_delete_=True, type='MultiLabelLinearClsHead', num_classes=10,
                      in_channels=128)},
    ),
    'binary': (
        'semantic FPN',
        {'decode_head.num_classes': 2, 'decode_head.out_channels': 1,
         'decode_head.threshold': 0.4,
         'decode_head.loss_decode': dict(type='CrossEntropyLoss', use_sigmoid=True)},
    ),
}  # fmt: skip


def with_settings(settings, folder):
    """What the toolbox predicts with settings of its model, and the network."""
    cfg = read(KINDS[SETTINGS[settings[0]][0]][0])
    for each in settings:
        cfg.merge_from_dict({f'model.{key}': value for key, value in SETTINGS[each][1].items()})
    torch.manual_seed(0)
    model, path = build_model(cfg), folder / 'model.pth'
    if 'binary' in settings:
        nn.init.constant_(model.decode_head.conv_seg.bias, -0.4)  # about the threshold's logit
    torch.save(dict(state_dict=model.state_dict()), path)
    return both(cfg, path)


@pytest.mark.parametrize('setting', SETTINGS)
def test_settings_are_in_the_network(setting, tmp_path):
    predict, network = with_settings([setting], tmp_path)
    results = compare(predict, network, network)
    assert all(r.found for r in results if r.counts)


@pytest.mark.parametrize(
    'settings',
    [
        ['class-agnostic suppression', 'all before suppression', 'all after suppression'],
        ['binary', 'padding of a segmentor'],
    ],
)
def test_settings_are_in_the_file(settings, tmp_path):
    predict, network = with_settings(settings, tmp_path)
    onnx_export.export(network, tmp_path / 'network.onnx')
    compare(predict, network, onnx_export.load(tmp_path / 'network.onnx', threads=1))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'test_cfg.nms': dict(type='soft_nms', iou_threshold=0.5)},
            "nms has type='soft_nms', which cannot be exported, as ONNX has no operator",
        ),
        ({'test_cfg.nms': dict(iou_threshold=0.5, sigma=1)}, 'nms has sigma=1, which cannot'),
        ({'test_cfg.nms_pre': -5}, 'nms_pre=-5 and max_per_img=100 cannot be exported'),
    ],
)
def test_choices_of_boxes_that_cannot_be_exported(changes, message, built):
    cfg, path, *_ = built('boxes')
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        networks.build_network(cfg, str(path))


def test_classes_stay_apart_in_half_precision(tmp_path):
    """Label 79 and 1280 pixels: moving classes apart would take more than float16 can hold."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from torchvision.ops import box_iou

    cfg = read('retinanet_dmformer-nano_fpn_mini-coco.py')
    cfg.merge_from_dict({'model.bbox_head.num_classes': 80, 'model.test_cfg.max_per_img': 1000})
    torch.manual_seed(0)
    checkpoint, file = tmp_path / 'model.pth', tmp_path / 'network.onnx'
    torch.save(dict(state_dict=build_model(cfg).state_dict()), checkpoint)
    network = networks.build_network(cfg, str(checkpoint))
    onnx_export.export(network, file)
    images = torch.rand(1, 3, 64, 1280) * 255
    with torch.no_grad():
        exact, in_torch = network(images), network.half()(images.half())
    converted = convert_float_to_float16(onnx.load(file), keep_io_types=True)
    session = InferenceSession(converted.SerializeToString(), providers=['CPUExecutionProvider'])
    in_file = map(torch.from_numpy, session.run(None, {'images': images.numpy()}))
    for boxes, scores, labels, _ in (in_torch, in_file):
        large = (labels > 60).sum() / (exact[2] > 60).sum()
        assert 0.9 < large < 1.1
        assert boxes.isfinite().all() and boxes.max() == 1280 and scores.min() >= 0
        overlaps = box_iou(*[boxes.float()] * 2).fill_diagonal_(0)[labels[:, None] == labels]
        assert 0.4 < overlaps.max() < cfg.model.test_cfg.nms.iou_threshold + 0.05  # as rounded


def test_padding_to_one_size_is_refused(built):
    cfg, path, *_ = built('semantic FPN')
    cfg = copy.deepcopy(cfg)
    cfg.model.data_preprocessor.test_cfg = dict(size=(64, 64))
    with pytest.raises(ValueError, match=r'test_cfg.size=\(64, 64\) pads to one size'):
        networks.build_network(cfg, str(path))


def test_too_little_found_is_no_proof(built):
    cfg, path, *_ = built('boxes')
    cfg = copy.deepcopy(cfg)
    cfg.model.test_cfg.score_thr = 1.0
    predict, network = both(cfg, path)
    with pytest.raises(verify.ExportError, match='finds 0 boxes in the pictures, and at least 20'):
        compare(predict, network, lambda images: predict(images))


def test_pictures_are_those_of_the_test(mini_data):
    cfg = read('retinanet_dmformer-nano_fpn_mini-coco.py')
    cfg.test_dataloader.dataset.data_root = str(mini_data / 'coco')
    found = verify.pictures_of(cfg)
    assert [Path(file).parent for file in found] == [mini_data / 'coco/val2017'] * 4
    cfg.test_dataloader.dataset.ann_file = 'nowhere.json'
    assert verify.pictures_of(cfg) == []


# int8


@pytest.mark.parametrize('kind', ['classifier', 'boxes', 'UperNet'])
def test_int8_is_what_runs(kind, built, tmp_path):
    network = built(kind)[-1]
    pictures = [verify._fit(verify.sample_photographs(), (1, 3, 64, 96))]
    plain, file = tmp_path / 'float.onnx', tmp_path / 'int8.onnx'
    onnx_export.export(network, plain)
    floating = int8.quantize(network, file, pictures, dict(task='a'))
    about = InferenceSession(file).get_modelmeta().custom_metadata_map
    assert about['task'] == 'a' and json.loads(about['floating_point']) == floating
    assert file.stat().st_size < 0.5 * plain.stat().st_size
    # what onnxruntime makes of it
    options = SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimized.onnx')
    InferenceSession(file, options, providers=['CPUExecutionProvider'])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    counts = Counter(node.op_type for node in nodes)
    layers = [n for n in onnx.load(plain).graph.node if n.op_type in ('Conv', 'Gemm')]
    assert counts['Conv'] == len(floating)
    assert counts['QLinearConv'] + counts['QGemm'] == len(layers) - len(floating)
    assert not counts['Gemm'] and not counts['QLinearMatMul']  # maps are pooled in float
    depthwise = [m for m in network.modules() if getattr(m, 'groups', 1) > 1]
    assert len(floating) == len(depthwise)


def test_int8_is_judged_by_what_it_decides(built):
    *_, predict, network = built('boxes')
    corners = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]])
    scores, labels, images = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0, 1, 1]), torch.zeros(3)
    expected = [
        part.repeat(7, *[1] * (part.ndim - 1)) for part in (corners, scores, labels, images)
    ]

    def share(*actual, tolerance=1.0):
        return verify.compare_decisions(
            lambda x: expected, network, lambda x: actual, [0], tolerance
        )

    assert share(*expected) == 1
    # The second is of another class, the third overlaps by 4 of 10 columns; a fourth is new.
    moved = corners + torch.tensor([[0.0], [0], [6]]) * torch.tensor([1.0, 0, 1, 0])
    found = share(moved, scores, torch.tensor([0, 0, 1]), images)
    assert found == pytest.approx((7 * 0.5 + 0.5) / (7 * 1 + 1))
    with pytest.raises(verify.ExportError, match=r'^50.0% of what .* at least 95.0% must be: cali'):
        share(moved, scores, torch.tensor([0, 0, 1]), images, tolerance=0.05)


def test_int8_command(built, mini_data, tmp_path, monkeypatch, capsys):
    _, checkpoint, *_ = built('classifier')
    config = ROOT / 'configs/mini/dmformer-nano_mini-imagenet.py'
    data = {
        f'{split}_dataloader.dataset.data_root': f'{mini_data}/imagenet'
        for split in ('train', 'test')
    }

    def run(out, *words, **changes):
        options = ['--int8', '--calibration', '8', '--sizes', '48x48', '--repetitions', '1']
        args = command.parser('').parse_args([str(config), str(checkpoint), out, *options, *words])
        args.cfg_options = {**data, **changes}
        command.run(args)
        return capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    text = run('a.onnx', '--tolerance', '1')
    assert 'calibrated on 8 pictures: in int8 are convolutions and linear layers\n' in text
    assert '\nin floating point is everything else, and of these: /backbone/stages.0/' in text
    assert '% of its decisions on 8 pictures are those of the toolbox\nwrote a.onnx' in text
    before = Path('a.onnx').read_bytes()
    whole = '--int8 is for whole networks as .onnx or .xml: leave it out.'
    for words, changes, sentence in (
        (['a.onnx', '--tolerance', '-1'], {}, '% must be: calibrate with more pictures'),
        (['a.param'], {}, whole),
        (['a.onnx', '--backbone'], {}, whole),
        (['a.onnx'], {'train_dataloader.dataset.data_root': 'no'}, 'dataloader, which are not'),
    ):
        with pytest.raises(UsageError, match=f'{re.escape(sentence)}.* Nothing was written.'):
            run(*words, **changes)
    assert [p.name for p in tmp_path.iterdir()] == ['a.onnx']
    assert Path('a.onnx').read_bytes() == before


# What cannot be


@pytest.mark.parametrize(
    ('name', 'options', 'changes', 'message'),
    [
        (
            'mask-rcnn_dmformer-nano_fpn_mini-coco.py',
            {},
            {},
            'has a MaskRCNN, which cannot be exported, as its heads run on crops .* --backbone',
        ),
        (
            'dmformer-nano_upernet_mini-ade20k.py',
            {},
            {'model.test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(32, 32))},
            "tests with mode 'slide', which is a loop over windows",
        ),
        ('dmformer-nano_mini-imagenet.py', dict(raw=True), {}, '--raw is for a RetinaNet'),
        (
            'swin-acmix-nano_mini-imagenet.py',
            dict(backbone_only=True),
            {},
            'has the backbone SwinACmix, which cannot be exported, as the windows',
        ),
        (
            'retinanet_dmformer-nano_fpn_mini-coco.py',
            {},
            {'model.type': 'FCOS'},
            'has a FCOS, which cannot be exported, as there is no network for models of this type',
        ),
    ],
)
def test_refusals(name, options, changes, message):
    cfg = read(name)
    cfg.merge_from_dict(changes)
    with pytest.raises(ValueError, match=message):
        networks.build_network(cfg, 'unused.pth', **options)


def test_tools(built, python, tmp_path):
    _, checkpoint, *_ = built('classifier')
    config = ROOT / 'configs/mini/dmformer-nano_mini-imagenet.py'
    options = ['--sizes', '64x64', '64x96', '--batches', '1', '2', '--repetitions', '2']
    program = ROOT / 'tools/deploy/export.py'
    for out, runs, *flags in (
        ('nano.onnx', 'ONNX Runtime'),
        ('nano.pt', 'TorchScript'),
        ('maps.onnx', 'ONNX Runtime', '--backbone'),
    ):
        result = python(program, config, checkpoint, out, *flags, *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert sum('largest difference' in line for line in lines) == 8
        assert f'{runs} ' in lines[-1] and 'median of 2' in lines[-1]
        assert (tmp_path / out).is_file()
    mask_rcnn = ROOT / 'configs/mini/mask-rcnn_dmformer-nano_fpn_mini-coco.py'
    result = python(program, mask_rcnn, checkpoint, 'm.onnx', cwd=tmp_path)
    assert result.returncode == 2 and not (tmp_path / 'm.onnx').exists()
    assert 'has a MaskRCNN, which cannot be exported' in result.stderr
    result = python(program, config, checkpoint, 'r.onnx', '--raw', cwd=tmp_path)
    assert result.returncode == 2 and '--raw is for a RetinaNet' in result.stderr
    result = python(program, config, checkpoint, 'w.txt', cwd=tmp_path)
    assert result.returncode == 2
    assert 'the name of w.txt must end in one of .onnx (ONNX Runtime), .xml (Open' in result.stderr
    (tmp_path / 'w.xml').touch()
    result = python(program, config, checkpoint, 'w.param', cwd=tmp_path)
    assert result.returncode == 2
    assert 'w.param would replace the weights of w.xml, which have the same' in result.stderr
    (tmp_path / 'w.xml').unlink()
    # What fails leaves an earlier file as it was.
    before = (tmp_path / 'nano.onnx').read_bytes()
    result = python(
        program, config, checkpoint, 'nano.onnx', *options, '--tolerance', '0', cwd=tmp_path
    )
    assert result.returncode == 2
    assert 'more than the tolerance 0. Nothing was written.' in result.stderr
    assert (tmp_path / 'nano.onnx').read_bytes() == before
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith('.std')} == {
        'nano.onnx',
        'nano.pt',
        'maps.onnx',
    }


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [(None, 'image a.png does not exist'), ('text', 'image a.png cannot be read')],
)
@pytest.mark.parametrize('channels', [1, 3])
def test_wrong_photograph_is_named(content, sentence, channels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content:
        Path('a.png').write_text(content)
    with pytest.raises((UsageError, BadInputError), match=sentence):
        verify.read_photographs(['a.png'], read('dmformer-nano_mini-imagenet.py'), channels)


@pytest.mark.parametrize(
    ('package', 'extra'),
    [
        ('onnx', 'optional'),
        ('openvino', 'runtimes'),
        ('nncf', 'runtimes'),
        ('executorch', 'executorch'),
    ],
)
def test_missing_package_is_named(package, extra, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package} is needed .*requirements/{extra}\.txt, or'):
        need(package)
