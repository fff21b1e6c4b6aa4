# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Models by name are those that the configs build."""

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmdmformer import get_model, list_models
from mmdmformer.apis import data_settings, models
from mmdmformer.checkpoints import shipped as shipped_files
from mmdmformer.checkpoints.safetensors_file import to_bytes
from mmdmformer.engine.model import build_model

ROOT = Path(__file__).resolve().parents[2]
NANO = {
    'dmformer_nano': 'dmformer-nano',
    'dynamic_deit_nano': 'dynamic-deit-nano',
    'dynamic_swin_nano': 'dynamic-swin-nano',
    'pvt_nano_acmix': 'pvt-acmix-nano',
    'resnet_nano_acmix': 'resnet-acmix-nano',
    'san_nano_acmix': 'san-acmix-nano',
    'swin_nano_acmix': 'swin-acmix-nano',
}
each_nano = pytest.mark.parametrize('name', NANO)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A mini config's classifier of mmpretrain and its checkpoint, with statistics and a head."""
    folder, made = tmp_path_factory.mktemp('trained'), {}

    def make(name):
        if name not in made:
            torch.manual_seed(0)
            cfg = Config.fromfile(ROOT / f'configs/mini/{NANO[name]}_mini-imagenet.py')
            model = build_model(cfg).eval()
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.01, 0.1)
            path = folder / f'{name}.pth'
            torch.save(dict(meta={}, state_dict=model.state_dict()), path)
            made[name] = model, path
        return made[name]

    return make


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_every_classification_config_has_a_name():
    files = [p for p in ROOT.glob('configs/*/*.py') if p.stem.endswith(('_in1k', 'mini-imagenet'))]
    assert len(list_models()) == len(files) == len(set(list_models()))
    assert set(list_models('*nano*')) - set(list_models('metaformer_nano_*')) == set(NANO)
    assert {'metaformer_nano_pooling', 'metaformer_small_self_attention'} < set(list_models())
    assert list_models('dmformer*')[:3] == ['dmformer_large', 'dmformer_nano', 'dmformer_small']
    assert {'resnet26_acmix', 'san19', 'dynamic_swin_tiny_depthwise'} < set(list_models())
    assert list_models('nothing*') == []


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('dmformer_smal', "no model 'dmformer_smal': did you mean dmformer_small or"),
        ('???', r"no model '\?\?\?': see list_models\(\)"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        get_model(name)


@pytest.mark.parametrize(
    ('family', 'name', 'config'),
    [
        ('dmformer', 'dmformer_small', 'dmformer-s_8xb128_in1k'),
        ('dmformer', 'dmformer_small_r1', 'dmformer-s-r1_8xb128_in1k'),
        ('acmix', 'resnet26_acmix', 'resnet-acmix-26_8xb32_in1k'),
        ('acmix', 'pvt_tiny_acmix', 'pvt-acmix-t_8xb128_in1k'),
        ('dynamic', 'dynamic_swin_tiny_depthwise', 'dynamic-swin-t-depthwise_8xb128_in1k'),
        ('metaformer', 'metaformer_small_lka', 'metaformer-s-lka_8xb128_in1k'),
        ('dmformer', 'dmformer_small_hybrid', 'dmformer-s-hybrid_8xb128_in1k'),
    ],
)
def test_sizes_are_those_of_the_configs(family, name, config):
    models = yaml.safe_load((ROOT / f'configs/{family}/metafile.yml').read_text())['Models']
    (entry,) = (m for m in models if m['Config'] == f'configs/{family}/{config}.py')
    size = sum(p.numel() for p in get_model(name).parameters())
    assert size == entry['Metadata']['Parameters']


@each_nano
@torch.no_grad()
def test_logits_are_those_of_mmpretrains_classifier(name, trained, images):
    reference, path = trained(name)
    model = get_model(name, pretrained=path, num_classes=10).eval()
    expected = reference.head(reference.extract_feat(images))
    assert model(images).shape == (2, 10)
    torch.testing.assert_close(model(images), expected, rtol=1e-6, atol=1e-6)
    state = model.state_dict()
    assert all(tensor.equal(state[key]) for key, tensor in reference.state_dict().items())


@each_nano
@torch.no_grad()
def test_features_of_a_classifiers_checkpoint(name, trained, images):
    reference, path = trained(name)
    model = get_model(name, pretrained=path, features_only=True).eval()
    features, info = model(images), model.feature_info
    assert info.channels() == [f.shape[1] for f in features]
    assert info.reduction() == [64 // f.shape[2] for f in features]
    assert info.out_indices == (0, 1, 2, 3)
    state, own = reference.backbone.state_dict(), model.backbone.state_dict()
    assert all(tensor.equal(state[key]) for key, tensor in own.items() if key in state)
    new = {key.split('.')[0] for key in own.keys() - state.keys()}  # Swin norms each output
    assert new == ({'norm0', 'norm1', 'norm2'} if 'swin' in name else set())
    left = state.keys() - own.keys()
    assert len(left) == (4 if 'pvt' in name else 0), left  # class token, its position, its norm
    two = get_model(name, pretrained=path, features_only=True, out_indices=(0, -2)).eval()
    assert [info.info[i]['num_chs'] for i in (0, 2)] == two.feature_info.channels()
    for feature, i in zip(two(images), (0, 2), strict=True):
        torch.testing.assert_close(feature, features[i])


def test_a_head_for_other_classes_is_left_out(trained, images, capsys):
    reference, path = trained('dmformer_nano')
    MMLogger.get_instance('models-test')
    model = get_model('dmformer_nano', pretrained=path, num_classes=3).eval()
    log = capsys.readouterr()
    assert 'is for 10 classes and was left out' in log.out + log.err
    assert model(images).shape == (2, 3)
    pooled = get_model('dmformer_nano', pretrained=path, num_classes=0).eval()
    torch.testing.assert_close(pooled(images), reference.extract_feat(images)[0])


def test_loading_says_what_it_loaded_and_no_more(capsys):
    MMLogger.get_instance('loading-test')
    get_model('dmformer_nano', pretrained=True)
    log = capsys.readouterr()
    lines = [line for line in (log.out + log.err).splitlines() if line.strip()]
    assert 'Loaded 317 of 317 tensors of Classifier' in lines[-1] and len(lines) <= 2


def test_weights_of_the_package_bring_their_classes(trained, images, tmp_path, monkeypatch):
    reference, path = trained('dmformer_nano')
    meta = dict(dataset_meta=dict(classes=list('abcdefghij')))
    content = dict(meta=meta, state_dict=torch.load(path)['state_dict'])
    shipped = models.shipped_weights('dmformer_nano')
    (tmp_path / shipped.name).write_bytes(to_bytes(content))
    monkeypatch.setattr(shipped_files, 'FOLDER', tmp_path)
    model = get_model('dmformer_nano', pretrained=True).eval()
    assert model.classes == tuple('abcdefghij')
    torch.testing.assert_close(model(images), reference.head(reference.extract_feat(images)))
    other = get_model('dmformer_nano', pretrained=True, num_classes=3).eval()
    assert other.classes == () and other(images).shape == (2, 3)
    assert other.backbone.stem[0].weight.equal(model.backbone.stem[0].weight)
    features = get_model('dmformer_nano', pretrained=True, features_only=True).eval()
    torch.testing.assert_close(features(images)[-1], model.backbone(images)[-1])
    with pytest.raises(ValueError, match='no weights of san19 come with the package'):
        get_model('san19', pretrained=True)
    with pytest.raises(ValueError, match="no model 'san18'"):
        get_model('san18', pretrained=True)


def test_what_does_not_fit_is_refused(trained, tmp_path):
    _, path = trained('dmformer_nano')
    with pytest.raises(RuntimeError, match='does not fit Classifier: missing'):
        get_model('resnet_nano_acmix', pretrained=path, num_classes=10)
    content = torch.load(path)
    del content['state_dict']['head.fc.bias']
    torch.save(content, tmp_path / 'w.pth')
    with pytest.raises(RuntimeError, match=r'missing: head\.fc\.bias\.'):
        get_model('dmformer_nano', pretrained=tmp_path / 'w.pth', num_classes=10)


def test_options_reach_the_backbone(images):
    model = get_model('dmformer_nano', in_channels=1, deploy=True, drop_path_rate=0.3)
    assert model.backbone.deploy and model(images[:, :1]).shape == (2, 1000)
    assert model.training
    features = get_model('dmformer_nano', in_channels=5, features_only=True)
    assert len(features(torch.rand(2, 5, 64, 64))) == 4


@each_nano
def test_data_settings_are_the_recipes(name):
    settings = data_settings(name)
    cfg = Config.fromfile(ROOT / f'configs/mini/{NANO[name]}_mini-imagenet.py')
    assert settings['image_size'] == cfg.test_pipeline[2].crop_size
    assert 0.87 < settings['crop_pct'] < 0.91
    assert settings['mean'] == (0.485, 0.456, 0.406)


ALONE = """
import sys
for toolbox in ('mmpretrain', 'mmdet', 'mmseg', 'timm', 'onnx'):
    sys.modules[toolbox] = None  # as if it were not installed

import torch
from mmdmformer import get_model, list_models

assert len(list_models()) > 50
model = get_model('dmformer_nano', num_classes=4).eval()
assert model(torch.rand(1, 3, 32, 32)).shape == (1, 4)
assert len(get_model('san_nano_acmix', features_only=True)(torch.rand(2, 3, 64, 64))) == 4
try:
    get_model('dynamic_swin_tiny')
except ImportError as error:
    print(error)
"""


def test_dmformer_needs_no_toolbox(bare_python, tmp_path):
    (tmp_path / 'alone.py').write_text(ALONE)
    result = bare_python(tmp_path / 'alone.py', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'dynamic_swin_tiny builds on mmpretrain, which is not installed' in result.stdout


def test_importing_and_listing_imports_no_toolbox(bare_python, tmp_path):
    names = "('mmpretrain', 'mmdet', 'mmseg', 'timm', 'onnx', 'safetensors')"
    code = 'import sys, mmdmformer; mmdmformer.list_models()\n'
    code += f'print([n for n in {names} if n in sys.modules])\n'
    (tmp_path / 'light.py').write_text(code)
    assert bare_python(tmp_path / 'light.py', cwd=tmp_path).stdout.strip() == '[]'
