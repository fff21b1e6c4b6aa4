# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The training and test entries, run on the built-in data for each of the three toolboxes."""

import argparse
import json
import math
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from analysis_tools.confusion_matrix import PixelMatrix
from mmdmformer import test as test_entry
from mmdmformer import train as train_entry
from mmdmformer.engine import runtime
from small_settings import settings

REPOSITORY = Path(__file__).parents[2]
TRAIN, TEST = REPOSITORY / 'tools/train.py', REPOSITORY / 'tools/test.py'
CONFUSION = REPOSITORY / 'tools/analysis_tools/confusion_matrix.py'
MINI = REPOSITORY / 'configs/mini'
CLASSIFIER = MINI / 'dmformer-nano_mini-imagenet.py'
DETECTOR = MINI / 'retinanet_dmformer-nano_fpn_mini-coco.py'
SEGMENTOR = MINI / 'dmformer-nano_sem-fpn_mini-ade20k.py'
IMAGES, VAL_IMAGES, BATCH = 40, 20, 10
LR, BASE_BATCH = 1e-3, 40


def classifier_options(mini_data, epochs=6):
    small = settings(
        CLASSIFIER, data_root=f'{mini_data}/imagenet', batch_size=BATCH, lr=LR, num_workers=0,
        image_size=32, max_epochs=epochs,
    )  # fmt: skip
    return [
        '--cfg-options',
        *small,
        'param_scheduler=[]',
        'default_hooks.logger.interval=1',
        f'auto_scale_lr.base_batch_size={BASE_BATCH}',
    ]


def run_ok(python, *args, cwd):
    result = python(*args, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def scalars(work_dir):
    """The records that the only run in ``work_dir`` wrote: of training, and of validation."""
    (log,) = Path(work_dir).glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [r for r in records if 'loss' in r], [r for r in records if 'loss' not in r]


def metrics(work_dir):
    """The metrics that the only test run in ``work_dir`` wrote."""
    (log,) = Path(work_dir).glob('*/*.json')
    return {k: v for k, v in json.loads(log.read_text()).items() if 'time' not in k}


def load(path):
    with open(path, 'rb') as file:
        return pickle.load(file)


@pytest.fixture(scope='module')
def trained(python, mini_data, tmp_path_factory):
    """Two epochs of classification, in a folder of its own."""
    folder = tmp_path_factory.mktemp('trained')
    options = classifier_options(mini_data, epochs=2)
    run_ok(python, TRAIN, CLASSIFIER, '--auto-scale-lr', *options, cwd=folder)
    return folder / 'work_dirs' / CLASSIFIER.stem


def test_training_writes_checkpoints_and_obeys_the_options(trained):
    checkpoint = torch.load(trained / 'epoch_2.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 2 * IMAGES / BATCH
    training, validation = scalars(trained)
    assert [record['iter'] for record in training] == list(range(1, 9))
    assert all(np.isfinite(record['loss']) for record in training)
    assert {record['lr'] for record in training} == {LR * BATCH / BASE_BATCH}
    assert [record['step'] for record in validation] == [1, 2]
    cfg = Config.fromfile(trained / CLASSIFIER.name)
    assert cfg.train_dataloader.dataset.pipeline[1].scale == 32
    assert cfg.train_dataloader.batch_size == BATCH


@pytest.mark.parametrize('path', ['automatic', 'named'])
def test_resume_goes_on_where_training_stopped(path, trained, python, mini_data, tmp_path):
    shutil.copy(trained / 'epoch_2.pth', tmp_path)
    if path == 'automatic':
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
        resume = ['--resume']
    else:
        resume = ['--resume', tmp_path / 'epoch_2.pth']
    options = classifier_options(mini_data, epochs=3)
    run_ok(python, TRAIN, CLASSIFIER, '--work-dir', tmp_path, *resume, *options, cwd=tmp_path)
    training, validation = scalars(tmp_path)
    assert [(r['epoch'], r['iter']) for r in training] == [(3, i) for i in range(9, 13)]
    assert [r['step'] for r in validation] == [3]
    before, after = (
        torch.load(tmp_path / f'epoch_{epoch}.pth', weights_only=False) for epoch in (2, 3)
    )
    assert after['meta']['iter'] == 12
    steps = [c['optimizer']['state'][0]['step'].item() for c in (before, after)]
    assert steps == [8, 12]


def scores_by_hand(checkpoint):
    """Class scores of the validation images in order, and of the mirrored images."""
    cfg = Config.fromfile(checkpoint.parent / CLASSIFIER.name)
    init_default_scope(cfg.default_scope)
    from mmpretrain.registry import DATASETS

    preprocessor = {'type': 'ClsDataPreprocessor', **cfg.model.data_preprocessor}
    model = MODELS.build({**cfg.model, 'data_preprocessor': preprocessor}).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=False)['state_dict'])
    samples = list(DATASETS.build(cfg.val_dataloader.dataset))
    images = torch.stack([sample['inputs'] for sample in samples])
    labels = np.array([sample['data_samples'].gt_label.item() for sample in samples])
    with torch.no_grad():
        batches = [
            model.data_preprocessor(dict(inputs=x))['inputs'] for x in (images, images.flip(-1))
        ]
        plain, mirrored = (model(x, mode='tensor').softmax(1).numpy() for x in batches)
    return plain, mirrored, labels


def test_testing_repeats_validation_and_writes_and_draws_predictions(
    trained, python, mini_data, tmp_path
):
    checkpoint = trained / 'epoch_2.pth'
    run_ok(
        python, TEST, CLASSIFIER, checkpoint, '--work-dir', 'work', '--out', 'out.pkl',
        '--show-dir', 'pictures', '--interval', 7, *classifier_options(mini_data), cwd=tmp_path,
    )  # fmt: skip
    found = metrics(tmp_path / 'work')
    _, validation = scalars(trained)
    assert found == {k: v for k, v in validation[1].items() if k.startswith('accuracy')}

    predictions = load(tmp_path / 'out.pkl')
    scores = np.stack([p['pred_score'].numpy() for p in predictions])
    by_hand, _, labels = scores_by_hand(checkpoint)
    np.testing.assert_allclose(scores, by_hand, atol=1e-5)
    top5 = np.argsort(-scores, axis=1)[:, :5] == labels[:, None]
    assert found['accuracy/top1'] == pytest.approx(100 * top5[:, 0].mean(), abs=1e-4)
    assert found['accuracy/top5'] == pytest.approx(100 * top5.any(1).mean(), abs=1e-4)
    assert len(list((tmp_path / 'pictures').glob('digit_*/*.png'))) == math.ceil(VAL_IMAGES / 7)


def test_tta_averages_the_scores_of_an_image_and_its_mirror(trained, python, mini_data, tmp_path):
    checkpoint = trained / 'epoch_2.pth'
    options = ['--tta', '--out', 'out.pkl', '--work-dir', 'work', *classifier_options(mini_data)]
    run_ok(python, TEST, CLASSIFIER, checkpoint, *options, cwd=tmp_path)
    scores = np.stack([p['pred_score'].numpy() for p in load(tmp_path / 'out.pkl')])
    plain, mirrored, _ = scores_by_hand(checkpoint)
    np.testing.assert_allclose(scores, (plain + mirrored) / 2, atol=1e-5)
    assert 'accuracy/top1' in metrics(tmp_path / 'work')


def test_tta_reaches_the_data_sets_in_wrappers(trained, python, tmp_path):
    cfg = Config.fromfile(trained / CLASSIFIER.name)
    plain = cfg.test_dataloader.dataset
    balanced = dict(type='ClassBalancedDataset', oversample_thr=0.0, dataset=plain)
    repeated = dict(type='RepeatDataset', times=2, dataset=plain)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[balanced, repeated])
    cfg.dump(tmp_path / 'wrapped.py')
    options = ['--tta', '--out', 'out.pkl', '--work-dir', 'work']
    run_ok(python, TEST, 'wrapped.py', trained / 'epoch_2.pth', *options, cwd=tmp_path)
    scores = np.stack([p['pred_score'].numpy() for p in load(tmp_path / 'out.pkl')])
    plain, mirrored, _ = scores_by_hand(trained / 'epoch_2.pth')
    np.testing.assert_allclose(scores, np.tile((plain + mirrored) / 2, (3, 1)), atol=1e-5)


def test_folded_checkpoint_gives_the_same_predictions(trained, python, mini_data, tmp_path):
    convert = REPOSITORY / 'tools/model_converters/reparameterize_model.py'
    run_ok(python, convert, CLASSIFIER, trained / 'epoch_2.pth', 'folded.pth', cwd=tmp_path)
    options = [*classifier_options(mini_data), 'model.backbone.deploy=True']
    run_ok(
        python, TEST, CLASSIFIER, 'folded.pth', '--work-dir', 'work', '--out', 'out.pkl',
        *options, cwd=tmp_path,
    )  # fmt: skip
    scores = np.stack([p['pred_score'].numpy() for p in load(tmp_path / 'out.pkl')])
    np.testing.assert_allclose(scores, scores_by_hand(trained / 'epoch_2.pth')[0], atol=1e-4)
    sizes = [path.stat().st_size for path in (tmp_path / 'folded.pth', trained / 'epoch_2.pth')]
    assert sizes[0] < sizes[1] / 2  # without the optimizer


@pytest.mark.parametrize(
    'option, reason',
    [
        (
            'model.backbone.kernel_sizes=(3,5,7,9) model.backbone.dilations=(1,2,3,1)',
            'missing keys in source state_dict: backbone.stages.0.blocks.0.mixer.branches.3.weight',
        ),
        (
            'model.head.num_classes=7 default_hooks.class_count.refuse=False '
            'default_hooks.signals=None',
            'size mismatch for head.fc.weight',
        ),
    ],
)
def test_testing_refuses_a_checkpoint_of_another_model(
    option, reason, trained, python, mini_data, tmp_path
):
    options = [*classifier_options(mini_data), *option.split()]
    result = python(TEST, CLASSIFIER, trained / 'epoch_2.pth', *options, cwd=tmp_path)
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    line = result.stderr.splitlines()[-1]
    assert f'epoch_2.pth does not fit the model of the config ({reason}' in line


def test_testing_ignores_what_the_model_does_not_need(trained, python, mini_data, tmp_path):
    content = torch.load(trained / 'epoch_2.pth', weights_only=False)
    content['state_dict']['auxiliary.weight'] = torch.zeros(3)
    torch.save(content, tmp_path / 'more.pth')
    options = ['--work-dir', 'work', *classifier_options(mini_data)]
    result = run_ok(python, TEST, CLASSIFIER, 'more.pth', *options, cwd=tmp_path)
    assert 'more.pth has more than the model: auxiliary.weight.' in result.stdout + result.stderr
    _, validation = scalars(trained)
    found = metrics(tmp_path / 'work')
    assert found == {k: v for k, v in validation[1].items() if k.startswith('accuracy')}


@pytest.mark.parametrize(
    'config, data, length, special, metric, prediction',
    [
        (DETECTOR, 'coco', dict(max_epochs=1), ['model.test_cfg.score_thr=0'], 'coco/bbox_mAP',
         'pred_instances'),
        (SEGMENTOR, 'ade/ADEChallengeData2016', dict(max_iters=2), [], 'mIoU', 'pred_sem_seg'),
    ],
    ids=['detection', 'segmentation'],
)  # fmt: skip
def test_detection_and_segmentation(
    config, data, length, special, metric, prediction, python, mini_data, tmp_path
):
    small = settings(
        config, data_root=str(mini_data / data), num_workers=0, batch_size=5,
        image_scale=(64, 64), **length,
    )  # fmt: skip
    options = ['--cfg-options', *special, *small]
    run_ok(python, TRAIN, config, '--work-dir', 'train', *options, cwd=tmp_path)
    _, validation = scalars(tmp_path / 'train')
    checkpoint = (tmp_path / 'train/last_checkpoint').read_text()

    # testing needs no training data
    options.append('train_dataloader.dataset.data_root=nowhere')
    run_ok(
        python, TEST, config, checkpoint, '--work-dir', 'test', '--out', 'out.pkl',
        '--show-dir', 'pictures', *options, cwd=tmp_path,
    )  # fmt: skip
    found = metrics(tmp_path / 'test')
    assert metric in found
    assert found == {k: v for k, v in validation[-1].items() if k in found}
    assert [prediction in p for p in load(tmp_path / 'out.pkl')] == [True] * 10
    assert len(list((tmp_path / 'pictures').iterdir())) == 10
    if config == SEGMENTOR:
        check_confusion_matrix(python, config, checkpoint, found, options, tmp_path)

    run_ok(
        python, TEST, config, checkpoint, '--work-dir', 'tta', '--tta', '--out', 'tta.pkl',
        '--show-dir', 'tta_pictures', *options, cwd=tmp_path,
    )  # fmt: skip
    assert metrics(tmp_path / 'tta').keys() == found.keys()
    assert len(load(tmp_path / 'tta.pkl')) == 10
    assert len(list((tmp_path / 'tta_pictures').iterdir())) == 10


def check_confusion_matrix(python, config, checkpoint, found, options, tmp_path):
    """The pixels give the metric's numbers, and the tool draws them."""
    samples = load(tmp_path / 'out.pkl')
    assert all('seg_logits' not in sample for sample in samples)
    pixels = PixelMatrix(ignored=255)
    pixels.dataset_meta = dict(classes=range(11))
    pixels.process({}, samples)
    pixels.compute_metrics(pixels.results)
    right, annotated, predicted = (
        pixels.matrix.diagonal(), pixels.matrix.sum(1), pixels.matrix.sum(0)
    )  # fmt: skip
    assert 100 * right.sum() / annotated.sum() == pytest.approx(found['aAcc'], abs=0.005)
    iou = right / (annotated + predicted - right)
    assert 100 * np.nanmean(iou) == pytest.approx(found['mIoU'], abs=0.005)
    run_ok(python, CONFUSION, config, checkpoint, 'matrix', *options, cwd=tmp_path)
    assert Image.open(tmp_path / 'matrix/confusion_matrix.png').width > 1000


def test_tested_average_is_the_validated_one(python, mini_data, tmp_path):
    """mmengine's EMAHook makes its average before the run and reads it from the checkpoint."""
    config = tmp_path / 'ema.py'
    config.write_text(f"""
_base_ = {str(CLASSIFIER)!r}
custom_hooks = [dict(type='EMAHook', momentum=0.3)]
""")
    options = classifier_options(mini_data, epochs=1)
    run_ok(python, TRAIN, config, '--work-dir', 'train', *options, cwd=tmp_path)
    _, validation = scalars(tmp_path / 'train')
    run_ok(
        python, TEST, config, 'train/epoch_1.pth', '--work-dir', 'test', '--out', 'out.pkl',
        *options, cwd=tmp_path,
    )  # fmt: skip
    found = metrics(tmp_path / 'test')
    assert found == {k: v for k, v in validation[-1].items() if k in found}
    shutil.copy(tmp_path / 'train/ema.py', tmp_path / 'train' / CLASSIFIER.name)
    by_hand, mirrored, _ = scores_by_hand(tmp_path / 'train/epoch_1.pth')
    scores = np.stack([p['pred_score'].numpy() for p in load(tmp_path / 'out.pkl')])
    np.testing.assert_allclose(scores, by_hand, atol=1e-5)
    run_ok(
        python, TEST, config, 'train/epoch_1.pth', '--work-dir', 'tta', '--tta', '--show-dir',
        'pictures', '--out', 'out.pkl', *options, cwd=tmp_path,
    )  # fmt: skip
    scores = np.stack([p['pred_score'].numpy() for p in load(tmp_path / 'out.pkl')])
    np.testing.assert_allclose(scores, (by_hand + mirrored) / 2, atol=1e-5)
    assert len(list((tmp_path / 'pictures').glob('digit_*/*.png'))) == VAL_IMAGES


def test_module_runs_from_any_folder(mini_data, tmp_path):
    """Without forks and preloaded modules, as a user would."""
    options = classifier_options(mini_data, epochs=1)
    command = [sys.executable, '-m', 'mmdmformer.train', str(CLASSIFIER), *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / 'work_dirs' / CLASSIFIER.stem / 'epoch_1.pth').is_file()


# What is decided before anything is built


def training_config(*args):
    options = train_entry._parser().parse_args([str(arg) for arg in args])
    return train_entry.training_config(options)


def test_options_mean_what_they_mean_to_mmengine():
    options = [
        'optim_wrapper.optimizer.lr=0.5', 'model.backbone.with_cp=True', 'compile=True',
        'train_dataloader.batch_size=3', 'train_dataloader.dataset.pipeline.2.scale=(32,64)',
        'train_dataloader.dataset.metainfo.classes=a,b', 'val_evaluator.metric=bbox,segm',
    ]  # fmt: skip
    cfg = training_config(
        DETECTOR, '--work-dir', 'here', '--auto-scale-lr', '--cfg-options', *options
    )
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    expected = Config.fromfile(DETECTOR)
    expected.merge_from_dict(parser.parse_args(['--cfg-options', *options]).cfg_options)
    expected.work_dir, expected.launcher, expected.auto_scale_lr.enable = 'here', 'none', True
    assert cfg.to_dict() == expected.to_dict()
    assert cfg.train_dataloader.dataset.metainfo.classes == ['a', 'b']
    assert cfg.filename == str(DETECTOR)


def test_defaults_leave_the_config_as_it_is():
    cfg, plain = training_config(DETECTOR), Config.fromfile(DETECTOR)
    plain.work_dir, plain.launcher = f'work_dirs/{DETECTOR.stem}', 'none'
    assert cfg.to_dict() == plain.to_dict()


def test_resuming_keeps_the_first_weights_until_there_is_a_checkpoint(tmp_path):
    options = ['--work-dir', tmp_path, '--resume', '--cfg-options', 'load_from=first.pth']
    cfg = training_config(DETECTOR, *options)
    assert (cfg.resume, cfg.load_from) == (False, 'first.pth')
    torch.save({'state_dict': {}}, tmp_path / 'epoch_1.pth')
    cfg = training_config(DETECTOR, *options)
    assert (cfg.resume, cfg.load_from) == (True, None)


def refusal(main, *args, capsys):
    """The one line with which an entry ends."""
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    return line


@pytest.fixture
def checkpoint(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'checkpoint.pth')
    return tmp_path / 'checkpoint.pth'


@pytest.mark.parametrize(
    'args, sentence',
    [
        ([MINI / 'retinanet_dmformer-nano_fpn_mini-cocco.py'],
         f'does not exist: did you mean {DETECTOR.name}?'),
        (['nowhere/config.py'], 'config file nowhere/config.py does not exist: check the path.'),
        ([DETECTOR, '--resume', 'nowhere.pth'], 'checkpoint nowhere.pth does not exist'),
        ([DETECTOR, '--cfg-options', 'load_from=nowhere.pth'],
         'checkpoint nowhere.pth does not exist'),
        ([DETECTOR, '--work-dir', 'here', '--cfg-options', 'work_dir=there'],
         '--cfg-options work_dir=there would change nothing, as --work-dir sets it to'),
        ([DETECTOR, '--resume', DETECTOR, '--cfg-options', 'load_from=other.pth'],
         '--cfg-options load_from=other.pth would change nothing, as --resume sets it to '),
        ([DETECTOR, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr.enable=False'],
         '--cfg-options auto_scale_lr.enable=False would change nothing, as --auto-scale-lr sets'),
        ([DETECTOR, '--launcher', 'pytorch'], '--launcher pytorch needs processes started by'),
    ],
)  # fmt: skip
def test_training_names_a_mistake(args, sentence, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert sentence in refusal(train_entry.main, *args, capsys=capsys)


@pytest.mark.parametrize(
    'option', ['lr', 'augments=[dict(type=Mixup,alpha=0.8)]', 'model.scale=(64,64']
)
def test_options_that_cannot_be_read_are_named(option, capsys):
    with pytest.raises(SystemExit) as ended:
        train_entry.main([str(DETECTOR), '--cfg-options', 'randomness.seed=1', option])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f'argument --cfg-options: {option!r} cannot be read: write KEY=VALUE' in line


@pytest.mark.parametrize('options', ['param_scheduler.3.type=X', 'resume.x=1', 'model=3 model.x=4'])
def test_options_that_do_not_fit_are_named(options, capsys):
    line = refusal(train_entry.main, DETECTOR, '--cfg-options', *options.split(), capsys=capsys)
    names = ', '.join(option.partition('=')[0] for option in options.split())
    assert f'--cfg-options {names} do not fit {DETECTOR}: ' in line


@pytest.mark.skipif(torch.cuda.is_available(), reason='mixed precision works with a GPU')
@pytest.mark.parametrize('option', ['--amp', '--cfg-options=optim_wrapper.type=AmpOptimWrapper'])
def test_mixed_precision_without_gpu_is_refused(option, capsys):
    line = refusal(train_entry.main, DETECTOR, *option.split('=', 1), capsys=capsys)
    assert 'needs a GPU and none is visible' in line


def test_scaling_the_learning_rate_needs_its_batch_size(tmp_path, capsys):
    (tmp_path / 'config.py').write_text(
        f'_base_ = {str(DETECTOR)!r}\nauto_scale_lr = dict(_delete_=True)\n'
    )
    args = [tmp_path / 'config.py', '--auto-scale-lr']
    assert 'auto_scale_lr.base_batch_size' in refusal(train_entry.main, *args, capsys=capsys)


def test_missing_toolbox_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('mmdmformer.compat.environment.find_spec', lambda name: None)
    assert "'mmdet' needs a toolbox" in refusal(train_entry.main, DETECTOR, capsys=capsys)


def test_missing_base_is_named(tmp_path, capsys):
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'nowhere.py'\n")
    assert 'nowhere.py' in refusal(train_entry.main, config, capsys=capsys)


@pytest.mark.parametrize(
    'config, args, sentence',
    [
        (DETECTOR, ['--out', 'predictions.json'], 'must end with .pkl'),
        (DETECTOR, ['--cfg-options', 'load_from=other.pth'],
         '--cfg-options load_from=other.pth would change nothing, as the checkpoint to test sets'),
        ("_base_ = '{}'\ntta_model = None", ['--tta'], '--tta needs tta_model and tta_pipeline'),
        ("_base_ = '{}'\nvisualizer = None", ['--show-dir', 'pictures'],
         "--show-dir needs the toolbox's visualizer"),
    ],
)  # fmt: skip
def test_testing_names_a_mistake(config, args, sentence, checkpoint, capsys):
    if isinstance(config, str):
        path = checkpoint.with_name('config.py')
        path.write_text(config.format(DETECTOR))
        config = path
    assert sentence in refusal(test_entry.main, config, checkpoint, *args, capsys=capsys)


def test_config_of_a_resumed_run_is_tested_without_resuming(checkpoint):
    config = checkpoint.with_name('dumped.py')
    config.write_text(f"_base_ = {str(DETECTOR)!r}\nresume = True\nload_from = 'last.pth'")
    cfg = test_entry.test_config(
        test_entry._parser().parse_args(
            [str(config), str(checkpoint), '--cfg-options', 'work_dir=here']
        )
    )
    assert (cfg.resume, cfg.load_from, cfg.work_dir) == (False, str(checkpoint), 'here')


def test_missing_checkpoint_is_named(capsys):
    line = refusal(test_entry.main, DETECTOR, 'nowhere.pth', capsys=capsys)
    assert 'checkpoint nowhere.pth does not exist' in line


def test_missing_data_is_named(python, tmp_path):
    result = python(TRAIN, CLASSIFIER, cwd=tmp_path)
    assert result.returncode == 2
    assert 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1] == (
        f'error: data directory {tmp_path}/data/mini/imagenet does not exist: '
        'run `python demo/make_mini_data.py` in this directory.'
    )


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ('the bomb went off',))


@pytest.mark.parametrize('entry', ['test', 'resume', 'load_from'])
def test_checkpoint_with_code_is_refused(entry, python, mini_data, tmp_path):
    bomb = tmp_path / 'bomb.pth'
    torch.save({'state_dict': {}, 'meta': Bomb()}, bomb)
    options = classifier_options(mini_data)
    result = {
        'test': lambda: python(TEST, CLASSIFIER, bomb, *options, cwd=tmp_path),
        'resume': lambda: python(TRAIN, CLASSIFIER, '--resume', bomb, *options, cwd=tmp_path),
        'load_from': lambda: python(TRAIN, CLASSIFIER, *options, f'load_from={bomb}', cwd=tmp_path),
    }[entry]()
    assert result.returncode == 2
    assert 'the bomb went off' not in result.stdout
    assert 'Traceback' not in result.stderr
    assert str(bomb) in result.stderr.splitlines()[-1]


# Several processes


@pytest.mark.parametrize('gpus', [1, 3])
def test_more_processes_than_gpus_are_refused(gpus, capsys, monkeypatch):
    monkeypatch.setattr(runtime, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    args = [DETECTOR, '--launcher', 'pytorch']
    line = refusal(train_entry.main, *args, capsys=capsys)
    assert f'4 processes were started on a machine with {gpus} visible GPU' in line
