# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks of every token mixer that there is: folded, captured, exported, trained in each task."""

import copy
import inspect
import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmdmformer import TOKEN_MIXERS, DMFormer, MetaFormer
from mmdmformer.deploy import networks, onnx_export, verify
from mmdmformer.engine.model import build_model
from small_settings import settings

ROOT = Path(__file__).resolve().parents[2]
TRAIN, MINI = ROOT / 'tools/train.py', ROOT / 'configs/mini'
HEAD_DIM = 16  # the largest that divides the widths of nano


def mixer_of(name, **options):
    parameters = inspect.signature(TOKEN_MIXERS.get(name)).parameters
    heads = dict(head_dim=HEAD_DIM) if 'head_dim' in parameters else {}
    return dict(type=name, **heads, **options)


TOKEN_MIXERS.import_from_location()
MIXERS = {name: mixer_of(name) for name in sorted(TOKEN_MIXERS.module_dict)}
ONE_FOR_EACH_STAGE = [
    mixer_of('DMA'),
    mixer_of('DepthwiseConv'),
    mixer_of('DynamicAttention', activation='scaling'),
    mixer_of('Linformer'),
]
CASES = {**MIXERS, 'one for each stage': ONE_FOR_EACH_STAGE}
each_mixer = pytest.mark.parametrize('mixer', CASES.values(), ids=CASES)


def randomize(model):
    """Give norms statistics and affine maps, and layer scales a value, as training does."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for name, parameter in model.named_parameters():
        if 'layer_scale' in name:
            nn.init.uniform_(parameter, -1, 1)
    return model


def build(mixer, **options):
    torch.manual_seed(0)
    model = MetaFormer(DMFormer.arch_zoo['nano'], mixer, out_indices=(0, 1, 2, 3), **options)
    model.init_weights()
    return model


@each_mixer
@torch.no_grad()
def test_deploy_form_equals_the_plain_one_and_loads(mixer):
    model, x = randomize(build(mixer)).eval(), torch.rand(2, 3, 65, 96)
    twin = copy.deepcopy(model).double()
    exact = twin(x.double())
    twin.switch_to_deploy()
    for folded, plain in zip(twin(x.double()), exact, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-9, atol=1e-9)
    model.switch_to_deploy()
    outs = model(x)
    for folded, plain in zip(outs, exact, strict=True):
        torch.testing.assert_close(folded.double(), plain, rtol=1e-4, atol=1e-4)
    loaded = build(mixer, deploy=True).eval()
    loaded.load_state_dict(model.state_dict())
    assert all(a.equal(b) for a, b in zip(loaded(x), outs, strict=True))


@each_mixer
@pytest.mark.parametrize('deploy', [False, True], ids=['plain', 'deploy'])
def test_layer_depth_rises_from_block_to_block(mixer, deploy):
    model = build(mixer, deploy=deploy)
    depths = [model.get_layer_depth(name) for name, _ in model.named_parameters()]
    assert {total for _, total in depths} == {7}
    assert [depth for depth, _ in depths] == sorted(depth for depth, _ in depths)
    assert {depth for depth, _ in depths} == set(range(6))


@pytest.mark.slow
@each_mixer
def test_capture_in_one_graph(mixer):
    torch.compiler.reset()
    model, x = build(mixer).double().train(), torch.rand(2, 3, 64, 64).double()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend='aot_eager', fullgraph=True)
    weights = [torch.rand_like(out) for out in model.eval()(x)]
    for network in (compiled, model.train()):
        sum((out * w).sum() for out, w in zip(network(x), weights, strict=True)).backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.slow
@each_mixer
def test_onnx(mixer, tmp_path):
    """As the tool exports and compares: folded, at two sizes, in batches of one and two."""
    cfg = Config.fromfile(MINI / 'metaformer-nano-dma_mini-imagenet.py')
    cfg.model.backbone.mixer = mixer
    torch.manual_seed(0)
    model = randomize(build_model(cfg))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    files = cfg, str(tmp_path / 'model.pth')
    predict, folded = verify.toolbox_model(*files), networks.build_network(*files)
    onnx_export.export(folded, tmp_path / 'network.onnx')
    run = onnx_export.load(tmp_path / 'network.onnx', threads=1)
    assert len(list(verify.compare(predict, folded, run, [(64, 96), (103, 80)], [1, 2]))) == 8


# A mini config of each task, the folder of its data, and what makes it short.
TASKS = {
    'classification': (
        'dmformer-nano_mini-imagenet',
        'imagenet',
        dict(max_epochs=1, batch_size=10, image_size=32),
    ),
    'detection': (
        'retinanet_dmformer-nano_fpn_mini-coco',
        'coco',
        dict(max_epochs=1, batch_size=2, image_scale=(64, 64)),
    ),
    'segmentation': (
        'dmformer-nano_sem-fpn_mini-ade20k',
        'ade/ADEChallengeData2016',
        dict(max_iters=4, batch_size=2, image_scale=(64, 64)),
    ),
}
METRICS = {
    'classification': 'accuracy/top1',
    'detection': 'coco/bbox_mAP',
    'segmentation': 'mIoU',
}
TRAINED = ('Pooling', 'LKA', 'DynamicConv', 'ACmix', 'LocalAttention', 'SelfAttention')


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('name', [*TRAINED, 'one for each stage'])
def test_training_in_every_task(name, task, python, mini_data, tmp_path):
    stem, data, variables = TASKS[task]
    (tmp_path / 'config.py').write_text(
        f"_base_ = '{MINI}/{stem}.py'\nmodel = dict(backbone=dict(mixer={CASES[name]}))\n"
    )
    options = settings(stem, data_root=f'{mini_data}/{data}', num_workers=0, **variables)
    options += ['param_scheduler=[]', 'default_hooks.logger.interval=1']
    if task == 'detection':
        options += ['model.test_cfg.score_thr=0.0']
    result = python(
        TRAIN, 'config.py', '--work-dir', 'run', '--cfg-options', *options, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (log,) = tmp_path.glob('run/*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) >= 4 and all(map(math.isfinite, losses))
    assert any(METRICS[task] in record for record in records)

    (checkpoint,) = (p for p in tmp_path.glob('run/*.pth') if not p.stem.startswith('best'))
    trained = torch.load(checkpoint, weights_only=False)['state_dict']
    torch.manual_seed(0)
    initial = build_model(Config.fromfile(tmp_path / 'config.py')).state_dict()
    assert trained.keys() == initial.keys()
    mixers = {key for key in trained if '.mixer.' in key and trained[key].is_floating_point()}
    assert all(trained[key].isfinite().all() for key in mixers)
