# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""timm builds, trains and reads the classifiers, and checkpoints go both ways."""

import copy
import re
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from timm.data import resolve_data_config
from timm.models import load_checkpoint
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import mmdmformer.apis.timm_models  # noqa: F401  (puts them into timm's registry)
from mmdmformer import get_model, list_models
from mmdmformer.checkpoints import CheckpointError, convert_checkpoint, timm_names
from mmdmformer.engine.model import build_model

ROOT = Path(__file__).resolve().parents[2]
NANO = list_models('*nano*')
each_nano = pytest.mark.parametrize('name', NANO)
each_family = pytest.mark.parametrize(
    'name', [name for name in NANO if 'metaformer' not in name] + ['metaformer_nano_pooling']
)
# They have 1-D parameters to exempt alone, which timm does by itself.
WITHOUT_EXEMPTIONS = {
    'dmformer_nano',
    'dynamic_deit_nano',
    'metaformer_nano_acmix',
    'metaformer_nano_depthwise_conv',
    'metaformer_nano_dma',
    'metaformer_nano_dynamic_depthwise_conv',
    'metaformer_nano_identity',
    'metaformer_nano_linformer',
    'metaformer_nano_lka',
    'metaformer_nano_pooling',
    'metaformer_nano_self_attention',
}


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def build(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs)


def convert(source, out):
    """Whose names the file that is written has."""
    written = convert_checkpoint(source, out, timm_names.exchange_names)
    return timm_names.names_of(written['state_dict'])


def randomize(model):
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.01, 0.1)
    return model.eval()


def test_registry_has_our_names_and_leaves_timms_alone():
    listed = set(timm.list_models(module='timm_models'))
    assert listed == set(list_models()) - {'resnet26'}
    assert timm.list_models('dmformer_s*')[0] == 'dmformer_small'
    assert type(timm.create_model('resnet26')).__module__ == 'timm.models.resnet'
    assert timm.list_pretrained('dmformer*') == []
    with pytest.raises(RuntimeError, match='No pretrained weights exist for dmformer_nano'):
        timm.create_model('dmformer_nano', pretrained=True)


def test_default_cfg_is_the_papers_recipe():
    model = build('dmformer_small')
    assert sum(p.numel() for p in model.parameters()) == 26660392
    data = resolve_data_config(model=model)
    assert data['input_size'] == (3, 224, 224) and data['interpolation'] == 'bicubic'
    assert data['mean'] == (0.485, 0.456, 0.406) and data['std'] == (0.229, 0.224, 0.225)
    assert int(224 / data['crop_pct']) == int(224 / 0.9)  # the side that is resized to


def randomize_if_bounded(name, model):
    """Scaled scores without a softmax have no bound: with random statistics they overflow."""
    return model.eval() if name == 'metaformer_nano_dynamic_attention' else randomize(model)


@each_nano
def test_classifier(name, images):
    model = randomize_if_bounded(name, build(name, num_classes=7, drop_path_rate=0.1))
    assert model.num_classes == 7 and model.num_features == model.get_classifier().in_features
    features = model.forward_features(images)
    out = model.forward_head(features)
    torch.testing.assert_close(model(images), out)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    torch.testing.assert_close(model.get_classifier()(pooled), model(images))
    model.reset_classifier(3)
    assert model(images).shape == (2, 3) and model.num_classes == 3
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), pooled)
    conv = model.get_submodule(model.default_cfg['first_conv'])
    assert conv.in_channels == 3
    with pytest.raises(ValueError, match="global_pool='max' is not possible"):
        model.reset_classifier(3, 'max')


@each_nano
def test_features_only(name, images):
    model = build(name, features_only=True, out_indices=(1, 3)).eval()
    features = model(images)
    assert model.feature_info.channels() == [f.shape[1] for f in features]
    assert model.feature_info.reduction() == [64 // f.shape[2] for f in features]
    last_two = build(name, features_only=True, out_indices=2).eval()
    assert last_two.feature_info.out_indices == (2, 3)
    assert build(name, features_only=True, in_chans=1)(images[:, :1])[0].shape[0] == 2


@each_family
def test_every_stage_is_described(name):
    info = build(name, features_only=True).feature_info
    assert len(set(info.module_name())) == 4 == len(info.get_dicts())
    keys = ('num_chs', 'reduction', 'index')
    described = [[stage[key] for key in keys] for stage in info.info]
    part = build(name, features_only=True, out_indices=(1, 3))
    for stages in (part.feature_info.info, build(name).feature_info):
        assert [[stage[key] for key in keys] for stage in stages] == described
    for module in part.feature_info.module_name():
        part.get_submodule(module)


@each_family
def test_intermediates(name, images):
    classifier = randomize(build(name))
    if re.search('swin|pvt|deit', name):
        with pytest.raises(ValueError, match='take features_only=True with out_indices='):
            classifier.forward_intermediates(images)
        return
    extractor = build(name, features_only=True).eval()
    extractor.backbone.load_state_dict(classifier.state_dict(), strict=False)
    maps = extractor(images)
    last, found = classifier.forward_intermediates(images)
    assert torch.equal(last, classifier.forward_features(images)) and len(found) == len(maps) == 4
    assert all(map(torch.equal, found, maps))
    first, third = classifier.forward_intermediates(images, [2, 0], intermediates_only=True)
    assert torch.equal(first, maps[0]) and torch.equal(third, maps[2])
    # As transformers' TimmBackbone asks for the hidden states.
    last_alone = build(name, features_only=True, out_indices=(-1,)).eval()
    last_alone.load_state_dict(extractor.state_dict())
    last_alone.return_layers = {i['module']: str(i['index']) for i in last_alone.feature_info.info}
    assert all(map(torch.equal, last_alone(images), maps))


@pytest.mark.parametrize('options', [{}, dict(features_only=True)], ids=['classifier', 'features'])
def test_the_output_stride_is_the_networks_own(options):
    assert build('dmformer_nano', output_stride=32, **options)
    with pytest.raises(ValueError, match='output_stride=16 is not possible.*dmformer_nano has 32'):
        build('dmformer_nano', output_stride=16, **options)


@each_nano
def test_a_step_of_training(name, images):
    model = build(name, num_classes=5, drop_rate=0.1).train()
    model.set_grad_checkpointing()
    average = ModelEmaV3(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = create_optimizer_v2(model, 'adamw', lr=1e-2, weight_decay=0.1, layer_decay=0.5)
    torch.nn.functional.cross_entropy(model(images), torch.tensor([1, 4])).backward()
    optimizer.step()
    average.update(model)
    # The convolution path of PVT's last block gives the class token nothing.
    learning = {n: p for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert len(learning) > 0.9 * len(list(model.parameters()))
    assert not [n for n, p in learning.items() if p.equal(before[n])]
    # The head learns fully, and what comes first the least.
    scales = [group['lr_scale'] for group in optimizer.param_groups]
    assert max(scales) == 1 and min(scales) < 0.1
    decayed = {id(p) for g in optimizer.param_groups if g['weight_decay'] for p in g['params']}
    exempt = model.no_weight_decay()
    assert bool(exempt) == (name not in WITHOUT_EXEMPTIONS)
    assert not any(id(p) in decayed for n, p in model.named_parameters() if n in exempt)


def test_activations_are_checkpointed(images):
    def saved_bytes(enable):
        sizes = []
        model = build('dmformer_nano').train()
        model.set_grad_checkpointing(enable)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            model(images)
        return sum(sizes)

    assert saved_bytes(True) < 0.5 * saved_bytes(False)


def test_weights_by_file_as_timm_loads_them(tmp_path, images):
    model = randomize(build('dmformer_nano'))
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    weights = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(tmp_path / 'w.pth')))
    again = build('dmformer_nano', **weights).eval()
    assert torch.equal(again(images), model(images))
    fresh = build('dmformer_nano', num_classes=4, in_chans=1, **weights).eval()
    assert fresh(images[:, :1]).shape == (2, 4)
    assert torch.equal(fresh.stages[3].norm.weight, model.stages[3].norm.weight)
    features = build('dmformer_nano', features_only=True, **weights).eval()
    assert torch.equal(features(images)[-1], model.forward_features(images))


# The converter


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """A checkpoint of mmpretrain's DMFormer as mmengine saves it with an average of the weights."""
    torch.manual_seed(0)
    cfg = Config.fromfile(ROOT / 'configs/mini/dmformer-nano_mini-imagenet.py')
    plain, average = randomize(build_model(cfg)), randomize(build_model(cfg))
    content = dict(
        meta=dict(epoch=3, dataset_meta=dict(classes=('a', 'b'))),
        state_dict=average.state_dict(),
        ema_state_dict=dict(
            steps=torch.tensor(17), **{f'module.{k}': v for k, v in plain.state_dict().items()}
        ),
        optimizer=dict(state={}),
    )
    path = tmp_path_factory.mktemp('averaged') / 'epoch_3.pth'
    torch.save(content, path)
    return plain, average, content, path


def logits(model, images):
    with torch.no_grad():
        return model.head(model.extract_feat(images))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].equal(b[key]), key


def test_there_and_back(averaged, tmp_path, images):
    plain, average, content, path = averaged
    there, back = tmp_path / 'timm.pth', tmp_path / 'mmpretrain.pth'
    assert convert(str(path), there) == 'timm'
    for use_ema, reference in ((True, average), (False, plain)):
        model = build('dmformer_nano', num_classes=10).eval()
        load_checkpoint(model, str(there), use_ema=use_ema)
        torch.testing.assert_close(model(images), logits(reference, images), rtol=1e-6, atol=1e-6)
    assert convert(str(there), back) == 'mmpretrain'
    again = torch.load(back)
    assert_same(again['state_dict'], content['state_dict'])
    assert_same(again['ema_state_dict'], content['ema_state_dict'])
    assert again['meta'] == content['meta'] and 'optimizer' not in again


@each_nano
def test_a_model_trained_with_timm_loads_by_name(name, tmp_path, images):
    model = randomize_if_bounded(name, build(name, num_classes=10))
    content = dict(
        arch=name,
        state_dict={f'module.{k}': v for k, v in model.state_dict().items()},
        optimizer={},
    )
    torch.save(content, tmp_path / 'last.pth.tar')
    convert(str(tmp_path / 'last.pth.tar'), tmp_path / 'w.pth')
    ours = get_model(name, pretrained=tmp_path / 'w.pth', num_classes=10).eval()
    same = dict(rtol=0, atol=0)
    torch.testing.assert_close(ours(images), model(images), **same)
    convert(str(tmp_path / 'w.pth'), tmp_path / 'again.safetensors')
    again = build(name, num_classes=10).eval()
    load_checkpoint(again, str(tmp_path / 'again.safetensors'))
    torch.testing.assert_close(again(images), model(images), **same)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (
            ['backbone.stem.0.weight', 'neck.convs.0.weight'],
            r'has neck\.convs\.0\.weight, which no',
        ),
        (['backbone.encoder.0.weight'], r'has backbone\.encoder\.0\.weight, which no'),
        (['conv1.weight', 'fc.weight'], r'has fc\.weight, which no classifier of mmdmformer has'),
        ([], 'has no weights, which'),
    ],
)
def test_unknown_names_are_refused(names, message, tmp_path):
    torch.save({'state_dict': {n: torch.ones(1) for n in names}}, tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=message):
        convert(str(tmp_path / 'w.pth'), tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_averages_do_not_fit_into_safetensors(averaged, tmp_path):
    with pytest.raises(ValueError, match='one set of weights, and this checkpoint has state_dict_'):
        convert(str(averaged[-1]), tmp_path / 'w.safetensors')


def test_converter_runs_no_code(tmp_path):
    torch.save({'state_dict': {}, 'hook': print}, tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match='Refused to load'):
        convert(str(tmp_path / 'w.pth'), tmp_path / 'out.pth')


def test_tool(averaged, python, tmp_path):
    tool = ROOT / 'tools/model_converters/timm_names.py'
    result = python(tool, averaged[-1], 'timm.pth', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith('wrote timm.pth with the names of timm')
    torch.save({'state_dict': {'fc.weight': torch.ones(1)}}, tmp_path / 'other.pth')
    result = python(tool, 'other.pth', 'out.pth', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith('error: other.pth: the checkpoint has fc.weight, which no')


def test_without_timm_the_import_says_so(bare_python, tmp_path):
    code = "import sys\nsys.modules['timm'] = None\nimport mmdmformer.apis.timm_models\n"
    (tmp_path / 'p.py').write_text(code)
    result = bare_python(tmp_path / 'p.py', cwd=tmp_path)
    assert 'timm is needed to put models into its registry and not installed' in result.stderr
