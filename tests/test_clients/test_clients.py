# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Other people's tools on our networks: what docs/clients.md shows (requirements/clients.txt)."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdmformer import get_model

pytestmark = pytest.mark.slow
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([1, 2])


def build():
    torch.manual_seed(0)
    model = get_model('dmformer_nano', num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as trained
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def train_a_step(model):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    loss = nn.functional.cross_entropy(model.train()(IMAGES), LABELS)
    loss.backward()
    optimizer.step()
    return loss


PAGE = (Path(__file__).parents[2] / 'docs/clients.md').read_text()
BEGIN, *SNIPPETS = re.findall('^```python\n(.*?)^```', PAGE, re.M | re.S)


@pytest.mark.parametrize('snippet', SNIPPETS, ids=['lora', 'pruning', 'explaining', 'heads'])
def test_page_runs(snippet):
    pytest.importorskip('peft', reason='make clients installs what the page needs')
    names = {}
    exec(BEGIN, names)
    model, before = names['model'], sum(p.numel() for p in names['model'].parameters())
    exec(snippet, names)
    after = sum(p.numel() for p in model.parameters())
    assert (after < before) == ('MagnitudePruner' in snippet)
    assert names['model'](names['images']).shape == (2, 10)


# Parameter-efficient fine-tuning


@pytest.mark.parametrize(
    'targets', ['all-linear', r'.*\.(expand|reduce|value)', r'.*ffn\.(0|3)', r'.*fcs\.[02]']
)
def test_lora_is_attached_trained_and_merged(targets):
    peft = pytest.importorskip('peft')
    model = build()
    before = copy.deepcopy(model.state_dict())
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2))
    train_a_step(wrapped)
    trained = dict(wrapped.named_parameters())
    second = [p for name, p in trained.items() if 'lora_B' in name]  # starts from zero
    assert second and all(p.abs().sum() > 0 for p in second)
    frozen = {n.removeprefix('base_model.model.'): p for n, p in trained.items() if 'lora' not in n}
    for name, parameter in frozen.items():
        assert parameter.equal(before[name.replace('.base_layer', '')]), name
    out = wrapped.eval()(IMAGES)
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(merged(IMAGES), out, rtol=0, atol=1e-5)
    assert not torch.allclose(out, build().eval()(IMAGES), atol=1e-5)


def test_norms_alone_can_be_tuned():
    model = build().requires_grad_(False)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.requires_grad_(True)
    train_a_step(model)
    assert all(norm.weight.grad.abs().sum() > 0 for norm in norms)


def test_mmpretrain_can_be_imported_beside_transformers_5():
    pytest.importorskip('transformers', minversion='5')
    program = (
        'import mmdmformer.prepared, mmpretrain.models; from mmpretrain.registry import MODELS; '
        'print(MODELS.get("SwinTransformer").__name__)'
    )
    run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ['SwinTransformer'], run.stderr


# Pruning


def test_pruned_network_trains_on():
    pruning = pytest.importorskip('torch_pruning')
    model = build().eval()
    assert sum(p.numel() for p in model.parameters()) == 861_114
    pruner = pruning.pruner.MagnitudePruner(
        model,
        IMAGES[:1],
        pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[model.head.fc],
    )
    pruner.step()
    # What the same network gives whose branches are called one by one.
    assert sum(p.numel() for p in model.parameters()) == 252_514
    mixer = model.backbone.stages[0].blocks[0].mixer
    assert [branch.out_channels for branch in mixer.branches] == [32, 32, 32]
    assert train_a_step(model).isfinite()


# Counters: DMFormer-S at 224 pixels, in units of 1e9 multiply-adds


def count_with_torch(model, image):
    with FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops() / 2


def count_with_ptflops(model, image):
    ptflops = pytest.importorskip('ptflops')
    options = dict(as_strings=False, print_per_layer_stat=False, backend='pytorch')
    return ptflops.get_model_complexity_info(model, tuple(image.shape[1:]), **options)[0]


def count_with_thop(model, image):
    return pytest.importorskip('thop').profile(model, (image,), verbose=False)[0]


def count_with_torchinfo(model, image):
    torchinfo = pytest.importorskip('torchinfo')
    return torchinfo.summary(model, input_data=image, verbose=0).total_mult_adds


def count_with_calflops(model, image):
    calflops = pytest.importorskip('calflops')
    return calflops.calculate_flops(
        model, tuple(image.shape), print_results=False, output_as_string=False
    )[1]


COUNTERS = {  # plain and folded, as counted of the layers called one after the other
    count_with_ptflops: (5.103, 5.075),
    count_with_thop: (5.063, 5.006),
    count_with_torchinfo: (5.039, 5.040),
    count_with_torch: (5.006, 5.006),
    count_with_calflops: (5.006, 5.006),
}


@pytest.mark.parametrize('count', COUNTERS)
@torch.no_grad()
def test_counters_see_every_layer(count):
    model, image = get_model('dmformer_small').eval(), torch.rand(1, 3, 224, 224)
    plain = count(copy.deepcopy(model), image) / 1e9
    model.backbone.switch_to_deploy()
    folded = count(model, image) / 1e9
    assert (plain, folded) == pytest.approx(COUNTERS[count], rel=1e-3)


# Attributions


def layers():
    model = build().eval()
    block = model.backbone.stages[2].blocks[-1]
    return model, dict(block=block, mixer=block.mixer, branch=block.mixer.branches[1])


def grad_cam_by_hand(model, layer, label):
    """ReLU of the sum of maps, weighted by their mean gradients (Selvaraju et al. 2017, eq. 2)."""
    kept = []
    handle = layer.register_forward_hook(lambda module, args, out: kept.append(out))
    score = model(IMAGES)[:, label].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    return (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu().detach()


@pytest.mark.parametrize('name', ['block', 'mixer', 'branch'])
def test_three_packages_draw_the_same_grad_cam(name):
    captum_attr = pytest.importorskip('captum.attr')
    pytorch_grad_cam = pytest.importorskip('pytorch_grad_cam')
    torchcam_methods = pytest.importorskip('torchcam.methods')
    model, choice = layers()
    layer = choice[name]
    cams = (grad_cam_by_hand(model, layer, label) for label in range(10))
    label, expected = next((i, cam) for i, cam in enumerate(cams) if cam.amax((1, 2)).gt(0).all())

    captums = captum_attr.LayerGradCam(model, layer).attribute(
        IMAGES, target=label, relu_attributions=True
    )
    torch.testing.assert_close(captums[:, 0], expected)

    def scaled(cam):
        cam = cam - cam.amin((1, 2), keepdim=True)
        return cam / (1e-7 + cam.amax((1, 2), keepdim=True))

    target = pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(label)
    with pytorch_grad_cam.GradCAM(model, [layer]) as cam:
        enlarged = torch.from_numpy(cam(IMAGES, [target] * 2))
    resized = [cv2.resize(image, (64, 64)) for image in scaled(expected).numpy()]
    torch.testing.assert_close(
        enlarged, scaled(torch.from_numpy(np.stack(resized))), rtol=1e-3, atol=1e-4
    )

    with torchcam_methods.GradCAM(model, layer) as extract:
        out = model(IMAGES)
        (drawn,) = extract(label, out, normalized=False)
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize('method', ['IntegratedGradients', 'DeepLift'])
def test_attributions_of_pixels_add_up_to_the_score(method):
    captum_attr = pytest.importorskip('captum.attr')
    model, _ = layers()
    model, images, baseline = model.double(), IMAGES.double(), torch.zeros_like(IMAGES).double()
    options = dict(n_steps=100) if method == 'IntegratedGradients' else {}
    attributions = getattr(captum_attr, method)(model).attribute(
        images, baseline, target=1, **options
    )
    scores = (model(images) - model(baseline))[:, 1]
    # DeepLift's rules leave out that the gate multiplies two paths, so its sums are approximate.
    tolerance = 0.02 if method == 'IntegratedGradients' else 0.15
    assert (attributions.sum((1, 2, 3)) - scores).abs().max() < tolerance * scores.abs().max()


@pytest.mark.parametrize('name', ['block', 'mixer', 'branch'])
def test_deep_lift_of_layers(name):
    captum_attr = pytest.importorskip('captum.attr')
    model, choice = layers()
    out = captum_attr.LayerDeepLift(model, choice[name]).attribute(IMAGES, target=1)
    assert out.shape[:2] == (2, 320 if name == 'branch' else 80) and out.abs().sum() > 0


# Heads of others on the models in timm's registry


def test_transformers_builds_on_our_timm_models():
    transformers = pytest.importorskip('transformers')
    import mmdmformer.apis.timm_models  # noqa: F401

    def config(*out_indices):
        return transformers.TimmBackboneConfig(backbone='dmformer_nano', out_indices=out_indices)

    backbone = transformers.TimmBackbone(config(1, -1)).eval()
    assert backbone.channels == [32, 128]
    out = backbone(IMAGES, output_hidden_states=True)
    assert [x.shape[1] for x in out.hidden_states] == [16, 32, 80, 128]
    assert all(map(torch.equal, out.feature_maps, (out.hidden_states[1], out.hidden_states[3])))
    small = dict(encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32)
    detr = transformers.DetrForObjectDetection(
        transformers.DetrConfig(
            backbone_config=config(-1), d_model=32, num_queries=5, num_labels=3, **small
        )
    )
    assert detr.eval()(IMAGES).logits.shape == (2, 5, 4)
    upernet = transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            backbone_config=config(0, 1, 2, 3),
            hidden_size=32,
            auxiliary_in_channels=80,
            num_labels=3,
        )
    )
    assert upernet.eval()(IMAGES).logits.shape == (2, 3, 64, 64)


def test_segmentation_models_build_on_our_timm_models():
    models = pytest.importorskip('segmentation_models_pytorch')
    import mmdmformer.apis.timm_models  # noqa: F401

    for name in ('Unet', 'FPN', 'DPT'):
        model = getattr(models, name)('tu-dmformer_nano', encoder_weights=None, classes=3).eval()
        assert model(IMAGES).shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match='output_stride=16 is not possible here: dmformer_nano'):
        models.DeepLabV3Plus('tu-dmformer_nano', encoder_weights=None)
