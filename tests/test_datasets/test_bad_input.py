# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Real faults in copies of the built-in data, read by the pipelines of the three toolboxes."""

import contextlib
import json
import multiprocessing
import shutil
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from mmdmformer.datasets.bad_input import BadImages, BadInputError, base_datasets, guard_pipeline
from mmdmformer.datasets.instances import check_instances
from mmdmformer.engine import UnreadableImagesHook
from mmdmformer.engine.model import save_untrained
from mmdmformer.engine.runtime import UsageError
from small_settings import settings, small_config

REPOSITORY = Path(__file__).parents[2]
MINI = REPOSITORY / 'configs/mini'
TRAIN, TEST = REPOSITORY / 'tools/train.py', REPOSITORY / 'tools/test.py'
# config, data root, training images, validation images
TASKS = {
    'classification': ('dmformer-nano_mini-imagenet', 'imagenet', 'train/*/*', 'val/*/*'),
    'detection': (
        'retinanet_dmformer-nano_fpn_mini-coco', 'coco', 'train2017/*', 'val2017/*'
    ),
    'segmentation': (
        'dmformer-nano_sem-fpn_mini-ade20k', 'ade/ADEChallengeData2016', 'images/training/*',
        'images/validation/*',
    ),
}  # fmt: skip
LIMIT = 'default_hooks.images.limit'
each_task = pytest.mark.parametrize('task', TASKS)
with_workers = pytest.mark.parametrize('workers', [0, 2])


@pytest.fixture
def data(mini_data, tmp_path):
    """A copy of the built-in data to damage."""
    return Path(shutil.copytree(mini_data, tmp_path / 'data'))


def config(task, data, workers, **settings):
    name, root, _, _ = TASKS[task]
    cfg = small_config(name, data_root=str(data / root), num_workers=workers, batch_size=2)
    cfg.work_dir = str(data / 'work')
    cfg.experiment_name = f'{task} {data} {workers}'
    cfg.merge_from_dict(settings)
    return cfg


def images(task, data, part='train'):
    name, root, train, val = TASKS[task]
    return sorted((data / root).glob(train if part == 'train' else val))


def spoil(paths):
    """Damage image files, each in another way."""
    for i, path in enumerate(paths):
        if i % 3 == 0:
            path.write_bytes(b'\xff\xd8\xff no image')
        elif i % 3 == 1:
            path.write_bytes(b'')
        else:
            path.write_bytes(path.read_bytes()[:20])
    return sorted(map(str, paths))


class LoaderRunner(Runner):
    """The runner, but for seconds of work on other things than data."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.logger = self.visualizer = MMLogger.get_current_instance()
        self._seed, self._randomness_cfg, self._hooks = 0, {}, []
        self._train_dataloader, self.optim_wrapper = cfg.train_dataloader, cfg.optim_wrapper
        self.auto_scale_lr = None
        self.images = UnreadableImagesHook(cfg.default_hooks.images.limit)
        self.register_hook(self.images)

    @property
    def bad_images(self):
        return list(self.images.bad_images.values())


def loader(cfg, part='train'):
    """The guarded data loader, and the runner that built it."""
    init_default_scope(cfg.default_scope)
    runner = LoaderRunner(cfg)
    if part == 'train':
        runner.loop = runner.build_train_loop(cfg.train_cfg)
        return runner.loop.dataloader, runner
    loaded = runner.build_dataloader(cfg.val_dataloader, seed=0)
    runner.images.prepare_dataloader(runner, loaded, training=False)
    return loaded, runner


def training_batches(runner, number):
    """As many batches as the training loop would take."""
    return islice(getattr(runner.loop, 'dataloader_iterator', runner.loop.dataloader), number)


@pytest.fixture(autouse=True)
def _end_workers():
    """At once, where torch waits 5 seconds for each."""
    yield
    for worker in multiprocessing.active_children():
        with contextlib.suppress(RuntimeError):  # torch's, of a worker that ends before it begins
            worker.terminate()
            worker.join(20)


def paths_of(batches):
    return [sample.img_path for batch in batches for sample in batch['data_samples']]


@pytest.fixture
def log(monkeypatch):
    """What is written into the log."""
    found = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handle', lambda record: found.append(record.getMessage()))
    return found


# Unreadable images


@with_workers
@each_task
def test_unreadable_training_images_are_replaced_and_told_once(task, workers, data):
    everything = images(task, data)
    bad = spoil(everything[2:5])
    loaded, runner = loader(config(task, data, workers, **{LIMIT: 0.4}))
    size = len(loaded.dataset)
    assert size in (len(everything), len(everything) - 1)  # detection leaves out an empty image
    found = []
    for _ in range(2):
        epoch = paths_of(training_batches(runner, (size + 1) // 2))
        assert len(epoch) >= size
        found += epoch
    assert not set(found) & set(bad)
    assert set(found) <= set(map(str, everything))
    (counted,) = runner.bad_images
    assert counted.take_unreported() == bad
    assert counted.take_unreported() == []
    assert counted.allowed == int(0.4 * size)


@with_workers
@each_task
def test_too_many_unreadable_training_images_stop_the_run(task, workers, data):
    bad = spoil(images(task, data)[2:5])
    cfg = config(task, data, workers)
    size = len(images(task, data)) - (task == 'detection')  # which leaves out an empty image
    cfg.merge_from_dict({LIMIT: 2 / size})
    _, runner = loader(cfg)
    with pytest.raises(BadInputError) as stopped:
        for _ in training_batches(runner, 2 * size):
            pass
    sentence = str(stopped.value)
    assert '\n' not in sentence
    assert any(sentence.startswith(f'image {path} cannot be read, and 3 ') for path in bad)
    assert f'3 unreadable of {size} training images are more than the 2 that' in sentence


@with_workers
@each_task
def test_validation_skips_nothing(task, workers, data):
    (bad,) = spoil(images(task, data, 'val')[3:4])
    loaded, _ = loader(config(task, data, workers, **{LIMIT: 1.0}), 'val')
    with pytest.raises(BadInputError) as stopped:
        list(loaded)
    sentence = str(stopped.value)
    assert sentence.startswith(f'image {bad} cannot be read (')
    assert sentence.endswith('): restore the file.') and '\n' not in sentence


def test_error_of_the_pipeline_itself_is_no_bad_input(data):
    loaded, _ = loader(config('classification', data, 0))
    loaded.dataset.pipeline.transforms[1].scale = 'nonsense'
    with pytest.raises(Exception) as broken:
        next(iter(loaded))
    assert not isinstance(broken.value, BadInputError)
    step = f'{loaded.dataset.pipeline.transforms[1]!r} of the pipeline'
    assert str(broken.value).startswith(f'{step} fails on image {data}/imagenet/train/')


def test_wrapped_data_sets_are_guarded(data):
    bad = spoil(images('classification', data)[:1])
    cfg = config('classification', data, 0, **{LIMIT: 0.1})
    plain = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[plain, plain])
    )
    cfg.train_dataloader.num_batch_per_epoch = 80
    loaded, runner = loader(cfg)
    assert not set(paths_of(loaded)) & set(bad)
    assert [counted.take_unreported() for counted in runner.bad_images] == [bad, bad]


def test_same_data_set_twice_is_found_twice(data):
    cfg = config('classification', data, 0)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert list(base_datasets(ConcatDataset([dataset, dataset]))) == [dataset, dataset]
    assert list(base_datasets([1, 2])) == []


def test_guarding_twice_changes_nothing(data):
    cfg = config('segmentation', data, 0)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    before = repr(dataset.pipeline)
    guard_pipeline(dataset)
    guarded = list(dataset.pipeline.transforms)
    guard_pipeline(dataset)
    assert all(a is b for a, b in zip(guarded, dataset.pipeline.transforms, strict=True))
    assert repr(dataset.pipeline) == before


def test_augmented_test_pipeline_is_guarded(data):
    cfg = config('segmentation', data, 0)
    init_default_scope(cfg.default_scope)
    settings = {**cfg.test_dataloader.dataset, 'pipeline': cfg.tta_pipeline}
    dataset = DATASETS.build(settings)
    guard_pipeline(dataset)
    path = Path(dataset.get_data_info(0)['seg_map_path'])
    path.write_bytes(b'no image')
    with pytest.raises(BadInputError, match=rf'annotation {path} cannot be read'):
        dataset[0]


@pytest.mark.parametrize('limit', [-0.1, 1.5, 'many'])
def test_limit_must_be_a_share(limit):
    with pytest.raises(UsageError, match='must be a share from 0 to 1'):
        UnreadableImagesHook(limit)


class Numbers:
    """Stands for ten images."""

    def __len__(self):
        return 10

    def get_data_info(self, index):
        return dict(img_path=f'{index}.jpg')


def find_together(rank, folder, queue):
    """In one of two processes: each finds another image."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    outcome = []
    for limit in (0.2, 0.1):
        bad = BadImages(Numbers(), limit)
        bad.add(3 + rank)
        try:
            bad.share()
        except BadInputError as error:
            outcome.append(str(error))
        outcome.append(bad.take_unreported())
    queue.put(outcome)
    torch.distributed.destroy_process_group()


def test_processes_count_together(tmp_path):
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    processes = [
        context.Process(target=find_together, args=(rank, tmp_path, queue)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    outcomes = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert outcomes[0] == outcomes[1]
    found, sentence, again = outcomes[0]
    assert found == again == ['3.jpg', '4.jpg']
    assert '2 unreadable of 10 training images are more than the 1 that' in sentence


# Annotations of segmentation


def no_image(path):
    path.write_bytes(b'no image')
    return f'annotation {path} cannot be read (UnidentifiedImageError: '


def missing(path):
    path.unlink()
    return f'annotation {path} cannot be read (FileNotFoundError: '


def other_size(path):
    cv2.imwrite(str(path), np.ones((64, 100), np.uint8))
    image = str(path).replace('annotations', 'images').replace('.png', '.jpg')
    return f'annotation {path} has the shape (64, 100), but its image {image} (128, 128): '


def colored(path):
    cv2.imwrite(str(path), np.ones((128, 128, 3), np.uint8))
    return f'annotation {path} has the shape (128, 128, 3), but '


def wrong_value(path):
    labels = np.ones((128, 128), np.uint8)
    labels[5, 7] = 12
    cv2.imwrite(str(path), labels)
    return (
        f'annotation {path} has the value 12 in row 5, column 7, but the last of the 11 classes '
        'has 11: '
    )


@pytest.mark.parametrize('part, workers', [('train', 0), ('train', 2), ('val', 0)])
@pytest.mark.parametrize('damage', [no_image, missing, other_size, colored, wrong_value])
def test_broken_segmentation_is_named(damage, part, workers, data):
    folder = data / 'ade/ADEChallengeData2016/annotations'
    path = sorted((folder / ('training' if part == 'train' else 'validation')).iterdir())[4]
    expected = damage(path)
    loaded, runner = loader(config('segmentation', data, workers, **{LIMIT: 1.0}), part)
    with pytest.raises(BadInputError) as stopped:
        list(training_batches(runner, 10) if part == 'train' else loaded)
    sentence = str(stopped.value)
    assert sentence.startswith(expected)
    assert '\n' not in sentence


@pytest.mark.parametrize('size', [(1, 500), (500, 1), (2, 300)])
def test_labels_keep_a_side_of_one_pixel(size, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size, np.uint8)
    for folder, pixels in (
        ('images', rng.integers(0, 256, (*size, 3), np.uint8)),
        ('labels', labels),
    ):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / 'thin.png'), pixels)
    init_default_scope('mmseg')
    dataset = DATASETS.build(
        dict(
            type='BaseSegDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            img_suffix='.png',
            metainfo=dict(classes=tuple('abcd')),
            pipeline=[
                dict(type=t) for t in ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')
            ],
        )
    )
    guard_pipeline(dataset)
    sample = dataset[0]
    assert sample['inputs'].shape[1:] == size
    assert np.array_equal(sample['data_samples'].gt_sem_seg.data[0], labels)


def test_every_label_of_the_format_is_valid(data):
    """0 and 255 are unlabeled, 1 to 11 the classes."""
    folder = data / 'ade/ADEChallengeData2016/annotations/training'
    labels = np.tile(np.array([0, 255, *range(1, 12)], np.uint8), (128, 10))[:, :128]
    for path in folder.iterdir():
        cv2.imwrite(str(path), labels)
    _, runner = loader(config('segmentation', data, 0))
    (batch,) = training_batches(runner, 1)
    assert batch['data_samples'][0].gt_sem_seg.data.max() == 255


# COCO's annotations


def edit(change):
    def damage(path):
        content = json.loads(path.read_text())
        expected = change(content)
        path.write_text(json.dumps(content))
        return f'{path}{"" if expected.startswith("has ") else ":"} {expected}'

    damage.__name__ = change.__name__
    return damage


def truncated(path):
    path.write_text(path.read_text()[:-100])
    return f'annotation file {path} is no valid JSON ('


def not_unicode(path):
    path.write_bytes(b'{"images": "\xff\xfe"}')
    return f'annotation file {path} is no valid JSON ('


def of_no_image(content):
    content['annotations'][3]['image_id'] = 99
    number = content['annotations'][3]['id']
    return f'annotation {number} refers to image 99, which is not in the file: '


def of_no_category(content):
    content['annotations'][2]['category_id'] = 11
    number = content['annotations'][2]['id']
    return f'annotation {number} refers to category 11, which is not in the file: '


def without_box(content):
    del content['annotations'][1]['bbox']
    number = content['annotations'][1]['id']
    return f'entry 1 of annotations (id {number}) has no bbox: '


def short_box(content):
    content['annotations'][1]['bbox'] = [1, 2, 3]
    number = content['annotations'][1]['id']
    return f'annotation {number} has the bbox [1, 2, 3] instead of four numbers: '


def mask_of_other_size(content):
    mask = content['annotations'][1]['segmentation']
    mask['counts'][0] += 1
    number = content['annotations'][1]['id']
    return f'annotation {number} has a mask whose run lengths do not fill its image of 128 x 128 '


def far_polygon(content):
    """On which pycocotools crashes."""
    content['annotations'][1]['segmentation'] = [[1e9, 1, 5, 1e9, 7, 8]]
    number = content['annotations'][1]['id']
    return f'annotation {number} has the polygon [1000000000.0, 1, 5, 1000000000.0, 7, 8] instead '


def id_twice(content):
    number = content['annotations'][1]['id'] = content['annotations'][0]['id']
    return f'entry 1 of annotations (id {number}) has the id of another one: '


def category_missing(content):
    category = content['categories'].pop()
    kept = [a for a in content['annotations'] if a['category_id'] != category['id']]
    content['annotations'] = kept
    return 'has no category digit_9'


def categories_shuffled(content):
    """mmdet would call a digit_0 what is a digit_1."""
    content['categories'][:2] = content['categories'][1::-1]
    return "has the order ['digit_1', 'digit_0', 'digit_2', "


def image_without_size(content):
    del content['images'][5]['width']
    number = content['images'][5]['id']
    return f'entry 5 of images (id {number}) has no width: '


COCO_FAULTS = [
    truncated, not_unicode, *map(edit, (of_no_image, of_no_category, without_box, short_box,
                                        image_without_size, mask_of_other_size,
                                        far_polygon, id_twice, category_missing,
                                        categories_shuffled)),
]  # fmt: skip


@pytest.mark.parametrize('part', ['train', 'val'])
@pytest.mark.parametrize('damage', COCO_FAULTS, ids=lambda damage: damage.__name__)
def test_broken_coco_file_is_named_with_its_entry(damage, part, data):
    expected = damage(data / f'coco/annotations/instances_{part}2017.json')
    with pytest.raises(BadInputError) as stopped:
        loader(config('detection', data, 0), part)
    assert str(stopped.value).startswith(expected)
    assert '\n' not in str(stopped.value)


@pytest.mark.parametrize(
    'content, sentence',
    [
        ([], 'a.json holds no COCO annotations: '),
        (dict(images=[]), 'a.json has no list of categories: '),
        (dict(images={}, categories=[]), 'a.json has no list of images: '),
    ],
)
def test_other_json_is_no_coco_file(content, sentence):
    with pytest.raises(BadInputError, match=sentence):
        check_instances(content, 'a.json')


def test_test_set_needs_no_annotations(data):
    path = data / 'coco/annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    del content['annotations']
    assert check_instances(content, 'a.json') is None


BAD_OBJECTS = [
    (dict(bbox=[9, 9, float('nan'), 4]), 'whose box is not finite'),
    (dict(bbox=[9, 9, -3, 4]), 'whose box has swapped corners'),
    (dict(bbox=[9, 9, 3, 0]), 'whose box has no area'),
    (dict(bbox=[128, 9, 3, 4]), 'whose box lies outside its image'),
    (dict(bbox=[0.2, 0.1, 0.3, 0.4]), 'whose box lies within 0 to 1'),
    (dict(bbox=[9, 9, 0.5, 4]), 'whose box is narrower than a pixel'),
    (dict(area=0), 'whose area is 0'),
    (dict(iscrowd=1), 'that iscrowd marks'),
    (dict(ignore=1), 'that ignore marks'),
    (dict(segmentation=[[]]), 'without a mask of three points or more'),
    (dict(segmentation=[[1, 2, 30, 40]]), 'without a mask of three points or more'),
    (dict(segmentation=None), 'without a mask of three points or more'),
]


@pytest.mark.parametrize('changes, reason', BAD_OBJECTS)
def test_object_that_takes_no_part_is_named_or_all_are_refused(changes, reason, data, log):
    path = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    changed = content['annotations'][1]
    changed.update(changes)
    path.write_text(json.dumps(content))
    cfg = config('detection', data, 0)
    cfg.train_dataloader.dataset.pipeline[1].with_mask = True
    cfg.train_pipeline = None
    total = len(content['annotations'])
    loaded, _ = loader(cfg)
    (sentence,) = (line for line in log if 'take no part' in line)
    box = ', '.join(f'{number:g}' for number in changed['bbox'])
    assert sentence == (
        f'{path}: 1 of {total} objects take no part: 1 {reason} (annotation {changed["id"]} of '
        f'{changed["image_id"]:012d}.jpg, bbox [{box}]).'
    )
    found = [sample.gt_instances for batch in loaded for sample in batch['data_samples']]
    assert sum(map(len, found)) == total - 1
    assert all(torch.isfinite(instances.bboxes.tensor).all() for instances in found)

    for annotation in content['annotations']:
        annotation.update(changes)
    path.write_text(json.dumps(content))
    with pytest.raises(BadInputError, match=f'{total} of {total} .*: {total} {reason} .* none is'):
        loader(cfg)


# Whole runs


def run(python, program, task, data, *options, checkpoint=None, **variables):
    name, root, _, _ = TASKS[task]
    variables = {'data_root': str(data / root), 'batch_size': 2, **variables}
    if task != 'classification':
        variables['image_scale'] = (64, 64)
    options = ['--cfg-options', *settings(name, **variables), *options]
    paths = [MINI / f'{name}.py', *([] if checkpoint is None else [checkpoint])]
    return python(program, *paths, *options, cwd=data)


def log_of(data):
    (log,) = data.glob('work_dirs/*/*/*.log')
    return log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize('task, workers', [('classification', 0), ('segmentation', 2)])
def test_training_goes_on_and_logs_what_it_replaced(task, workers, python, data):
    bad = spoil(images(task, data)[:2])
    length = dict(max_iters=10) if task == 'segmentation' else dict(max_epochs=2, warmup_epochs=1)
    result = run(
        python, TRAIN, task, data, f'{LIMIT}=0.2', 'auto_scale_lr.base_batch_size=10',
        num_workers=workers, batch_size=5, **length,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    log = log_of(data)
    allowed = 2 if task == 'segmentation' else 8
    for path in bad:
        sentence = f'Image {path} cannot be read and was replaced by another one; up to {allowed} '
        assert log.count(sentence) == 1
    assert (
        'for a global batch of 10 images (auto_scale_lr.base_batch_size), and this run has 5' in log
    )
    assert 'Epoch(val)' in log or 'Iter(val)' in log


@pytest.mark.parametrize('task, workers', [('classification', 0), ('detection', 2)])
def test_training_stops_with_one_sentence(task, workers, python, data):
    spoil(images(task, data))
    result = run(python, TRAIN, task, data, num_workers=workers)
    assert result.returncode == 2
    assert 'Traceback' not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f'error: image {data}')
    assert last.endswith(
        'are more than the 0 that limit=0.001 of UnreadableImagesHook allows: restore the files or '
        'raise the limit.'
    )


def test_test_run_stops_with_one_sentence(python, data):
    save_untrained(MINI / f'{TASKS["segmentation"][0]}.py', data / 'untrained.pth')
    (bad,) = spoil(images('segmentation', data, 'val')[:1])
    result = run(python, TEST, 'segmentation', data, checkpoint='untrained.pth', num_workers=0)
    assert result.returncode == 2
    assert 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f'error: image {bad} cannot be read (')


def test_training_names_the_broken_entry(python, data):
    expected = edit(of_no_image)(data / 'coco/annotations/instances_train2017.json')
    result = run(python, TRAIN, 'detection', data, num_workers=0)
    assert result.returncode == 2
    assert 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f'error: {expected}')


def all_crowds(data):
    path = data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1
    path.write_text(json.dumps(content))
    count = len(content['annotations'])
    return f'{path}: {count} of {count} objects take no part: {count} that iscrowd marks ('


def zeros_and_255(data):
    folder = data / 'ade/ADEChallengeData2016/annotations/training'
    for path in folder.iterdir():
        cv2.imwrite(str(path), np.where(cv2.imread(str(path), 0) > 1, 255, 0).astype(np.uint8))
    return f'the 10 label images of {folder} hold nothing but 255 after reduce_zero_label, and '


def classes_reversed(data):
    return f'the classes of the data set have digit_9 in place 0, and the folders of {data}'


@pytest.mark.parametrize(
    'task, toolbox, fault',
    [
        ('classification', 'mmpretrain', classes_reversed),
        ('detection', 'mmdet', all_crowds),
        ('segmentation', 'mmseg', zeros_and_255),
    ],
)
def test_toolboxes_own_entry_ends_before_the_first_step(task, toolbox, fault, python, data):
    tool = Path(find_spec(toolbox).origin).parent / '.mim/tools/train.py'
    if not tool.is_file():
        pytest.skip(f'{toolbox} brings no tools')
    expected = fault(data)
    cfg = config(task, data, 0)
    if fault is classes_reversed:
        cfg.train_dataloader.dataset.metainfo.classes = cfg.classes[::-1]
    cfg.dump(data / 'config.py')
    result = python(tool, data / 'config.py', cwd=data)
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1].partition('BadInputError: ')[2]
    assert last.startswith(expected)
    assert 'lr:' not in result.stdout + result.stderr
