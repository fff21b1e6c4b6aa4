# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Predictions for images, folders, globs and videos, by the toolboxes' own inferencers."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

import image_demo
from mmdmformer.checkpoints import CheckpointError
from mmdmformer.checkpoints.safetensors_file import to_bytes
from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.engine.model import build_model, save_untrained
from mmdmformer.engine.runtime import UsageError
from predictions import Predictor, find_images

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / 'demo/image_demo.py'
MINI = REPOSITORY / 'configs/mini'
CONFIGS = {
    'classification': MINI / 'dmformer-nano_mini-imagenet.py',
    'detection': MINI / 'retinanet_dmformer-nano_fpn_mini-coco.py',
    'segmentation': MINI / 'dmformer-nano_sem-fpn_mini-ade20k.py',
}


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Untrained models, with the names of their classes as training writes them."""
    folder, paths = tmp_path_factory.mktemp('checkpoints'), {}
    for task, config in CONFIGS.items():
        paths[task] = folder / f'{task}.pth'
        save_untrained(config, paths[task])
        _add_classes(config, paths[task])
    return paths


def _add_classes(config, path):
    import torch

    content = torch.load(path)
    content['meta'] = dict(dataset_meta=Config.fromfile(config).test_dataloader.dataset.metainfo)
    content['meta']['dataset_meta'] = {
        key: list(value) for key, value in content['meta']['dataset_meta'].items()
    }
    torch.save(content, path)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Three images, one of them damaged, in a folder and one below it."""
    folder = tmp_path_factory.mktemp('images')
    generator = np.random.default_rng(0)
    (folder / '<script>alert(1)<').mkdir()
    for name, size in (('a.jpg', (64, 80)), ('<script>alert(1)</script>.png', (50, 40))):
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    content = (folder / 'a.jpg').read_bytes()
    (folder / 'broken.jpg').write_bytes(content[: len(content) // 2])
    (folder / 'notes.txt').write_text('no image')
    return folder


@pytest.mark.parametrize('task', CONFIGS)
def test_predictions_are_those_of_the_model(task, checkpoints, images):
    options = {'model.test_cfg.score_thr': 0.0} if task == 'detection' else None
    predictor = Predictor(CONFIGS[task], str(checkpoints[task]), 'cpu', 0.0, options)
    assert predictor.task == task
    prediction = predictor(images / 'a.jpg')
    if task == 'detection':
        counts = [int(part.split()[0]) for part in prediction.label.split(', ')]
        assert sum(counts) == 100 and counts == sorted(counts, reverse=True)
        assert 'digit_' in prediction.label
    elif task == 'classification':
        import torch

        model = build_model(Config.fromfile(CONFIGS[task])).eval()
        model.load_state_dict(torch.load(checkpoints[task])['state_dict'])
        image = cv2.imread(str(images / 'a.jpg'))
        # the test pipeline: short side to 53 pixels, 48 from the middle
        height, width = 53, int(80 * 53 / 64)
        scaled = np.array(Image.fromarray(image).resize((width, height), Image.BICUBIC))
        top, left = round((height - 48) / 2), round((width - 48) / 2)
        crop = torch.from_numpy(scaled[top : top + 48, left : left + 48]).permute(2, 0, 1)
        batch = model.data_preprocessor(dict(inputs=[crop]))
        with torch.no_grad():
            scores = model(batch['inputs'])[0].softmax(0)
        name, score = prediction.label.split()
        assert int(name.removeprefix('digit_')) == scores.argmax()
        assert float(score.rstrip('%')) == pytest.approx(100 * scores.max().item(), abs=0.1)
        assert min(prediction.picture.size) >= 224  # enlarged
    else:
        shares = [float(part.split()[1].rstrip('%')) for part in prediction.label.split(', ')]
        assert sum(shares) == pytest.approx(100, abs=0.6) and shares == sorted(shares)[::-1]
        assert prediction.picture.size == (80, 64)
    with pytest.raises(BadInputError, match='broken.jpg cannot be read'):
        predictor(images / 'broken.jpg')


@pytest.mark.parametrize('channels, color', [(1, 'grayscale'), (4, 'unchanged')])
@pytest.mark.parametrize('task', CONFIGS)
def test_images_are_read_as_the_config_says(task, channels, color, tmp_path):
    # mmdet's preprocessor takes one number or three, and so does mmseg's in the fork
    numbers = channels if task == 'classification' else 1
    options = {
        'model.backbone.in_channels': channels,
        'model.data_preprocessor.mean': [100.0] * numbers,
        'model.data_preprocessor.std': [50.0] * numbers,
        f'model.data_preprocessor.{"to_rgb" if task == "classification" else "bgr_to_rgb"}': False,
        'test_dataloader.dataset.pipeline.0.color_type': color,
    }
    if task == 'detection':
        options['model.test_cfg.score_thr'] = 0.0
    checkpoint, image = tmp_path / 'w.pth', tmp_path / 'image.png'
    save_untrained(CONFIGS[task], checkpoint, options)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, channels), np.uint8)
    cv2.imwrite(str(image), pixels)
    predictor = Predictor(CONFIGS[task], str(checkpoint), 'cpu', 0.0, options)
    prediction = predictor(image)
    assert prediction.picture.mode == 'RGB'
    (sample,) = _test_step(CONFIGS[task], options, predictor.inferencer.model, image)
    if task == 'classification':
        assert prediction.label.endswith(f' {sample.pred_score.max():.1%}')
    elif task == 'detection':
        counts = [int(part.split()[0]) for part in prediction.label.split(', ')]
        expected = sample.pred_instances.labels.bincount().tolist()
        assert counts == sorted(filter(None, expected), reverse=True)
    else:
        shares = [float(part.split()[-1].rstrip('%')) for part in prediction.label.split(', ')]
        counts = sample.pred_sem_seg.data.flatten().bincount().double()
        expected = 100 * counts[counts > 0] / counts.sum()
        assert shares == pytest.approx(sorted(expected.tolist(), reverse=True), abs=0.051)


def _test_step(config, options, model, image):
    """What the model says of a file that the test pipeline has read."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    pipeline = cfg.test_dataloader.dataset.pipeline
    steps = [step for step in pipeline if step['type'] != 'LoadAnnotations']
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        data = Compose(steps)(dict(img_path=str(image), img_id=0))
        return model.test_step(pseudo_collate([data]))


HEADS = {
    'classification': {
        'model.head': dict(
            _delete_=True, type='MultiLabelLinearClsHead', num_classes=10, in_channels=128
        )
    },
    'segmentation': {
        'model.decode_head.num_classes': 2,
        'model.decode_head.out_channels': 1,
        'model.decode_head.threshold': 0.5,
        'model.decode_head.loss_decode': dict(type='CrossEntropyLoss', use_sigmoid=True),
    },
}


@pytest.mark.parametrize('task', HEADS)
def test_scores_and_thresholds_are_those_of_the_head(task, images, tmp_path):
    path = tmp_path / 'w.pth'
    save_untrained(CONFIGS[task], path, HEADS[task])
    predictor = Predictor(CONFIGS[task], str(path), 'cpu', options=HEADS[task])
    label = predictor(images / 'a.jpg').label
    sample = predictor.inferencer(str(images / 'a.jpg'), return_datasamples=True)
    if task == 'classification':
        assert label.endswith(f' {sample[0].pred_score.max():.1%}')
    else:
        shares = {float(part.split()[-1].rstrip('%')) for part in label.split(', ')}
        ones = 100 * sample.pred_sem_seg.data.mean().item()
        assert shares == {round(share, 1) for share in (ones, 100 - ones) if share}


def test_drawings_have_true_colors(checkpoints, tmp_path):
    path = tmp_path / 'red.png'
    Image.new('RGB', (300, 300), (250, 10, 20)).save(path)
    for task, config in CONFIGS.items():
        picture = Predictor(config, str(checkpoints[task]), 'cpu', 1.0)(path).picture
        if task != 'segmentation':  # which covers all of it
            assert np.asarray(picture)[-3, -3].tolist() == [250, 10, 20]


def test_checkpoint_of_another_model_is_refused(checkpoints):
    with pytest.raises(CheckpointError, match='does not fit the model of the config'):
        Predictor(CONFIGS['classification'], str(checkpoints['segmentation']), 'cpu')


def test_inputs_are_found(images):
    names = [str(name) for _, name in find_images(str(images))]
    assert names == ['<script>alert(1)</script>.png', 'a.jpg', 'broken.jpg']
    assert find_images(str(images / 'a.jpg')) == [(images / 'a.jpg', Path('a.jpg'))]
    assert [str(name) for _, name in find_images(f'{images}/**/*.png')] == ['script>.png']
    assert [str(name) for _, name in find_images(f'{images}/*.jpg')] == ['a.jpg', 'broken.jpg']
    with pytest.raises(UsageError, match=r'nowhere/\*.png names no image: give an image'):
        find_images('nowhere/*.png')


def test_images_in_linked_folders_are_found_once(images, tmp_path):
    (tmp_path / 'linked').symlink_to(images)
    (tmp_path / 'around').symlink_to(tmp_path)
    names = [str(name) for _, name in find_images(str(tmp_path))]
    assert names == [
        f'linked/{n}' for n in ('<script>alert(1)</script>.png', 'a.jpg', 'broken.jpg')
    ]


def test_demo_names_what_it_skips(python, checkpoints, images, tmp_path):
    result = python(
        DEMO, images, CONFIGS['classification'], checkpoints['classification'],
        '--out-dir', 'out', '--gallery', 'pages/out.html', cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr, result.stderr
    assert result.stderr.splitlines()[-1] == 'error: 1 of 3 images cannot be read.'
    written = sorted(str(p.relative_to(tmp_path / 'out')) for p in (tmp_path / 'out').rglob('*.*g'))
    assert written == ['<script>alert(1)</script>.png', 'a.jpg']
    page = (tmp_path / 'pages/out.html').read_text()
    assert '<script' not in page and page.count('<figure>') == 2
    assert '&lt;script&gt;alert(1)&lt;/script&gt;.png' in page
    assert 'broken.jpg cannot be read' in page


def test_demo_will_not_replace_its_images(python, checkpoints, images, tmp_path):
    arguments = (CONFIGS['segmentation'], checkpoints['segmentation'], '--out-dir', images)
    before = (images / 'a.jpg').read_bytes()
    result = python(DEMO, images / 'a.jpg', *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert 'error: the drawing would replace its image' in result.stderr
    assert (images / 'a.jpg').read_bytes() == before


def test_demo_draws_a_video(python, checkpoints, tmp_path):
    code = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(tmp_path / 'video.avi'), code, 10, (80, 64))
    for i in range(5):
        writer.write(np.full((64, 80, 3), 50 * i, np.uint8))
    writer.release()
    result = python(
        DEMO, 'video.avi', CONFIGS['detection'], checkpoints['detection'], '--every', '2',
        '--score-thr', '1', '--out-dir', 'out', '--gallery', 'out.html', cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    drawn = cv2.VideoCapture(str(tmp_path / 'out/video.mp4'))
    assert drawn.get(cv2.CAP_PROP_FPS) == 5
    frames = []
    while (read := drawn.read())[0]:
        frames.append(read[1].mean())
    assert frames == pytest.approx([0, 100, 200], abs=6)
    page = (tmp_path / 'out.html').read_text()
    assert [f'video_00000{i}.png' in page for i in range(5)] == [True, False, True, False, True]
    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    result = python(
        DEMO, 'broken.mp4', CONFIGS['detection'], checkpoints['detection'], cwd=tmp_path
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: video broken.mp4 cannot be read')


def test_weights_of_the_repository_bring_their_config(tmp_path, monkeypatch):
    monkeypatch.setattr(image_demo, 'WEIGHTS', (str(tmp_path),))
    config = 'configs/cifar10/dmformer-nano_cifar10.py'
    (tmp_path / 'cells.safetensors').write_bytes(
        to_bytes(dict(meta=dict(config=config), state_dict={}))
    )
    found = image_demo.find_shipped('cells')
    assert found == (str(REPOSITORY / config), str(tmp_path / 'cells.safetensors'))
    with pytest.raises(UsageError, match=r'my.py needs a checkpoint .* \(cells\) bring'):
        image_demo.find_shipped('my.py')
