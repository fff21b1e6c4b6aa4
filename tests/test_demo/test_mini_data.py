# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import json
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_image

import digit_scenes as compose
import mini_data as mini
from mini_data import CLASSES, SEG_CLASSES, MiniDataError, make_mini_data

COUNTS = {'classification': (80, 20), 'detection': (12, 10), 'segmentation': (12, 10)}
ADE = 'ade/ADEChallengeData2016'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return make_mini_data(tmp_path_factory.mktemp('data') / 'mini', **COUNTS, quiet=True)


@pytest.fixture
def copy(root, tmp_path):
    return Path(shutil.copytree(root, tmp_path / 'mini'))


def read_manifest(root):
    return json.loads((root / mini.MANIFEST).read_text())


def read_bytes(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def split_of(path):
    is_train, is_val = 'train' in path, 'val' in path
    assert is_train != is_val
    return 'train' if is_train else 'val'


# The material and the scenes


def test_splits_hold_every_scan_once_and_a_fifth_of_each_digit_for_validation():
    target = load_digits().target
    material = compose.load_material(seed=3)
    used = np.concatenate([np.concatenate(m.scans_of) for m in material.values()])
    assert sorted(used) == list(range(1797))
    for split, share in (('train', 0.8), ('val', 0.2)):
        for label, scans in enumerate(material[split].scans_of):
            assert set(target[scans]) == {label}
            assert len(scans) == pytest.approx(share * (target == label).sum(), abs=0.5)


def test_photo_parts_of_the_two_splits_make_up_the_photograph():
    material = compose.load_material(seed=0)
    for train, val in zip(material['train'].photos, material['val'].photos, strict=True):
        assert train.name == val.name
        assert (train.top, val.top) == (0, len(train.pixels))
        whole = load_sample_image(train.name)[..., ::-1]
        assert np.array_equal(np.concatenate([train.pixels, val.pixels]), whole)


@pytest.mark.parametrize('angle', [0, -15, 40])
@pytest.mark.parametrize('side', [20, 56, 150])
def test_rendered_stroke_has_the_side_asked_for_and_soft_edges(side, angle):
    for scan in compose.load_material(seed=0)['train'].scans[::100]:
        alpha = compose.render_stroke(scan, side, angle)
        rows, columns = np.nonzero(alpha >= 0.5)
        box = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert max(box) == pytest.approx(side, abs=1 + side / 50)
        assert alpha.min() == 0 and alpha.max() > 0.9
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert border.max() < 0.25 and ((alpha > 0.15) & (alpha < 0.5)).any()


def test_upright_stroke_resembles_its_scan():
    scans = compose.load_material(seed=0)['train'].scans
    for scan in scans[::50]:
        ink = np.argwhere(scan >= 0.45)
        alpha = compose.render_stroke(scan, 64, 0)
        x, y, width, height = cv2.boundingRect((alpha >= 0.5).astype(np.uint8))
        alpha = alpha[y : y + height, x : x + width]
        (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
        small = cv2.resize(
            alpha, (int(right - left), int(bottom - top)), interpolation=cv2.INTER_AREA
        )
        likeness = np.corrcoef(small.ravel(), scan[top:bottom, left:right].ravel())[0, 1]
        assert likeness > 0.7


def random_scenes(count=60):
    material = compose.load_material(seed=0)['train']
    return [mini._random_scene(material, np.random.default_rng(i), 128) for i in range(count)]


def test_scenes_overlap_but_leave_each_digit_mostly_visible():
    scenes = random_scenes()
    assert {len(scene.digits) for scene in scenes} == {1, 2, 3}
    shares = [d.visible.sum() / d.stroke.sum() for s in scenes for d in s.digits]
    assert min(shares) >= 0.6
    assert 0.1 < np.mean(np.array(shares) < 1) < 0.6
    for scene in scenes:
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        union = np.any([d.stroke for d in scene.digits], axis=0)
        assert np.array_equal(np.sum([d.visible for d in scene.digits], axis=0), union)
        for digit in scene.digits:
            rows, columns = np.nonzero(digit.stroke)
            assert 38 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 90


def single_digits(count):
    material = compose.load_material(seed=0)['val']
    for i in range(count):
        choice = (material.scans_of[i % 10][i // 10], i % 10)
        rng = np.random.default_rng(i)
        yield compose.compose_scene(material, rng, 64, [choice], (35, 51), 10, max_shift=3)


def test_single_digits_stand_out_from_their_surroundings():
    for scene in single_digits(100):
        stroke = scene.digits[0].stroke.astype(np.uint8)
        around = 1 - cv2.dilate(stroke, np.ones((3, 3)))
        around &= cv2.dilate(stroke, np.ones((9, 9)))
        gray = cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY) / 255
        assert np.median(gray[stroke > 0]) - np.median(gray[around > 0]) > 0.2


def test_single_digits_survive_the_central_crop_of_90_per_cent():
    for scene in single_digits(100):
        rows, columns = np.nonzero(scene.digits[0].stroke)
        assert min(rows.min(), columns.min()) >= 3 and max(rows.max(), columns.max()) <= 60
        assert 33 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 53


# What is written


def test_numbers_of_files(root):
    count = Counter(str(Path(path).parent) for path in read_manifest(root)['files'])
    expected = {
        f'imagenet/{split}/{name}': number
        for split, number in (('train', 8), ('val', 2))
        for name in CLASSES
    }
    expected |= {'coco/train2017': 12, 'coco/val2017': 10, 'coco/annotations': 2}
    for kind in ('images', 'annotations'):
        expected |= {f'{ADE}/{kind}/training': 12, f'{ADE}/{kind}/validation': 10}
    assert count == expected
    assert set(read_bytes(root)) == {mini.MANIFEST, *read_manifest(root)['files']}
    stems = [
        {p.stem for p in (root / ADE / kind / 'training').iterdir()}
        for kind in ('images', 'annotations')
    ]
    assert stems[0] == stems[1]


def test_scale_multiplies_the_default_numbers_down_to_ten(tmp_path):
    root = make_mini_data(tmp_path / 'mini', scale=0.02, quiet=True)
    parameters = read_manifest(root)['parameters']
    for name in COUNTS:
        train, val = make_mini_data.__kwdefaults__[name]
        assert parameters[name] == [max(10, round(0.02 * train)), max(10, round(0.02 * val))]
    for split, count in zip(('train', 'val'), parameters['classification'], strict=True):
        assert len(list((root / 'imagenet' / split).rglob('*.png'))) == count


def test_image_sizes(root):
    for path in read_manifest(root)['sources']:
        side = 64 if path.startswith('imagenet') else 128
        assert cv2.imread(str(root / path)).shape == (side, side, 3)


def test_splits_share_no_scan_and_no_photograph_pixel(root):
    scans = {'train': set(), 'val': set()}
    pixels = {split: {} for split in scans}
    sources = read_manifest(root)['sources']
    images = [p for p in read_bytes(root) if p.endswith('.jpg') or p.startswith('imagenet')]
    assert sorted(sources) == sorted(images)
    for path, source in sources.items():
        split = split_of(path)
        scans[split] |= set(source['scans'])
        left, top, width, height = source['crop']
        seen = pixels[split].setdefault(source['photo'], np.zeros((427, 640), bool))
        assert 0 <= left <= 640 - width and 0 <= top <= 427 - height
        seen[top : top + height, left : left + width] = True
    assert len(scans['train']) > 80 and len(scans['val']) > 20
    assert not scans['train'] & scans['val']
    assert set(pixels['train']) == set(pixels['val']) == {'china.jpg', 'flower.jpg'}
    for photo, seen in pixels['train'].items():
        assert seen.mean() > 0.4 and pixels['val'][photo].mean() > 0.2
        assert not (seen & pixels['val'][photo]).any()


def test_recorded_crop_is_the_background(root):
    likeness = []
    for path, source in read_manifest(root)['sources'].items():
        if not path.startswith('ade'):
            continue
        left, top, width, height = source['crop']
        crop = load_sample_image(source['photo'])[top : top + height, left : left + width, ::-1]
        image = cv2.imread(str(root / path))
        crop = cv2.resize(crop, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        seg_map = path.replace('/images/', '/annotations/').replace('.jpg', '.png')
        photo = cv2.imread(str(root / seg_map), cv2.IMREAD_UNCHANGED) == 1
        photo = cv2.erode(photo.astype(np.uint8), np.ones((15, 15))) > 0  # beyond the halo
        likeness.append(
            max(
                np.corrcoef(image[photo].ravel(), c[photo].ravel())[0, 1]
                for c in (crop, crop[:, ::-1])
            )
        )
    assert min(likeness) > 0.9


def test_recorded_scans_have_the_labels_that_are_written(root):
    from pycocotools.coco import COCO

    target = load_digits().target
    sources = read_manifest(root)['sources']
    coco = {
        split: COCO(root / f'coco/annotations/instances_{split}2017.json')
        for split in ('train', 'val')
    }
    for path, source in sources.items():
        labels = [int(target[scan]) for scan in source['scans']]
        if path.startswith('imagenet'):
            assert Path(path).parent.name == CLASSES[labels[0]] and len(labels) == 1
        elif path.startswith('coco'):
            annotations = coco[split_of(path)].imgToAnns[int(Path(path).stem)]
            assert [a['category_id'] - 1 for a in annotations] == labels
        else:
            seg_map = path.replace('/images/', '/annotations/').replace('.jpg', '.png')
            values = np.unique(cv2.imread(str(root / seg_map), cv2.IMREAD_UNCHANGED))
            assert set(values) == {0, 1} | {label + 2 for label in labels}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_annotations(root, split):
    from pycocotools import mask as mask_utils
    from pycocotools.coco import COCO

    coco = COCO(root / f'coco/annotations/instances_{split}2017.json')
    names = {k: category['name'] for k, category in coco.cats.items()}
    assert names == {k + 1: f'digit_{k}' for k in range(10)}
    files = {image['file_name'] for image in coco.imgs.values()}
    assert files == {p.name for p in (root / f'coco/{split}2017').iterdir()}
    assert sum(not coco.imgToAnns[k] for k in coco.imgs) == 1
    for image_id in coco.imgs:
        annotations = coco.imgToAnns[image_id]
        masks = [coco.annToMask(annotation) for annotation in annotations]
        for annotation, mask in zip(annotations, masks, strict=True):
            assert annotation['iscrowd'] == 0
            assert annotation['area'] == mask.sum() > 50
            assert annotation['bbox'] == list(cv2.boundingRect(mask))
            assert annotation['bbox'] == mask_utils.toBbox(coco.annToRLE(annotation)).tolist()
        assert all(not (a & b).any() for a, b in combinations(masks, 2))


def test_coco_ids_are_unique_across_splits(root):
    content = [
        json.loads((root / f'coco/annotations/instances_{split}2017.json').read_text())
        for split in ('train', 'val')
    ]
    for kind in ('images', 'annotations'):
        ids = [entry['id'] for c in content for entry in c[kind]]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_ground_truth_scores_full_marks_in_cocoeval(root, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(root / 'coco/annotations/instances_train2017.json')
    found = [
        {k: a[k] for k in ('image_id', 'category_id', 'bbox')}
        | {'segmentation': truth.annToRLE(a), 'score': 0.9}
        for a in truth.anns.values()
    ]
    if kind == 'bbox':
        for result in found:
            del result['segmentation']
    evaluation = COCOeval(truth, truth.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_seg_maps_have_an_ignored_rim_around_every_digit(root):
    share = []
    for path in (root / ADE / 'annotations').rglob('*.png'):
        seg_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert seg_map.shape == (128, 128) and seg_map.dtype == np.uint8
        assert seg_map.max() <= len(SEG_CLASSES) == 11
        for value in set(np.unique(seg_map)) - {0, 1}:
            mask = (seg_map == value).astype(np.uint8)
            neighbors = seg_map[cv2.dilate(mask, np.ones((3, 3))) > 0]
            assert set(np.unique(neighbors)) == {0, value}
        share.append([(seg_map == 0).mean(), (seg_map > 1).mean()])
    rim, digits = np.mean(share, axis=0)
    assert 0.01 < rim < digits < 0.3


# Determinism


def test_same_seed_gives_the_same_bytes(root, tmp_path):
    again = make_mini_data(tmp_path / 'mini', **COUNTS, quiet=True)
    assert read_bytes(again) == read_bytes(root)


def test_another_seed_gives_other_images(root, tmp_path):
    other = make_mini_data(tmp_path / 'mini', seed=2, **COUNTS, quiet=True)
    ours, theirs = read_manifest(root), read_manifest(other)
    assert ours['files'].keys() == theirs['files'].keys()
    assert not set(ours['files'].values()) & set(theirs['files'].values())
    val_scans = [
        {scan for path, s in m['sources'].items() if split_of(path) == 'val' for scan in s['scans']}
        for m in (ours, theirs)
    ]
    assert val_scans[0] != val_scans[1]


def test_an_image_does_not_depend_on_how_many_others_there_are(root, tmp_path):
    few = make_mini_data(
        tmp_path / 'mini',
        classification=(20, 10),
        segmentation=(10, 10),
        quiet=True,
        detection=(10, 10),
    )
    ours, theirs = read_manifest(root)['files'], read_manifest(few)['files']
    shared = [p for p in theirs if p.startswith(('imagenet', 'ade'))]
    assert len(shared) == 20 + 10 + 2 * (10 + 10)
    assert all(ours[path] == theirs[path] for path in shared)


# Reuse, refusal and rewriting


def test_a_complete_folder_is_reused(copy, capsys):
    before = {p: p.stat().st_mtime_ns for p in copy.rglob('*')}
    assert make_mini_data(copy, **COUNTS) == copy
    assert 'reusing' in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in copy.rglob('*')} == before


def test_an_empty_folder_is_filled(root, tmp_path):
    (tmp_path / 'mini').mkdir()
    make_mini_data(tmp_path / 'mini', **COUNTS, quiet=True)
    assert read_manifest(tmp_path / 'mini') == read_manifest(root)


def tamper(root):
    path = root / 'coco/annotations/instances_val2017.json'
    path.write_bytes(path.read_bytes().replace(b'"iscrowd":0', b'"iscrowd":1', 1))


def lose(root):
    (root / 'imagenet/val/digit_3/digit_3_00002.png').unlink()


@pytest.mark.parametrize(
    ('damage', 'arguments', 'message'),
    [
        (tamper, {}, r'was changed .* in coco/annotations/instances_val2017\.json:'),
        (lose, {}, r'lacks imagenet/val/digit_3/digit_3_00002\.png:'),
        (lambda root: shutil.rmtree(root / 'ade'), {}, r'lacks 44 files such as ade/.*\.jpg:'),
        (lambda root: None, {'seed': 2}, 'made with seed 1, not 2:'),
        (lambda root: None, {'detection': (13, 10)}, r'detection \[12, 10\], not \[13, 10\]:'),
        (lambda root: None, {'scene_size': 96}, 'scene_size 128, not 96:'),
    ],
)
def test_what_differs_is_named_and_force_cures_it(copy, damage, arguments, message):
    damage(copy)
    before = read_bytes(copy)
    arguments = {**COUNTS, **arguments, 'quiet': True}
    with pytest.raises(MiniDataError, match=message + r' rewrite it with --force') as caught:
        make_mini_data(copy, **arguments)
    assert '\n' not in str(caught.value)
    assert read_bytes(copy) == before
    make_mini_data(copy, **arguments, force=True)
    make_mini_data(copy, **arguments)


def test_an_older_format_is_noticed(copy, monkeypatch):
    monkeypatch.setattr(mini, 'FORMAT', mini.FORMAT + 1)
    with pytest.raises(MiniDataError, match='made with format'):
        make_mini_data(copy, **COUNTS, quiet=True)


@pytest.mark.parametrize('force', [False, True])
@pytest.mark.parametrize('manifest', [None, '', '[]', '{"files": {}}', '{"parameters": 1}'])
def test_a_foreign_folder_is_left_alone(tmp_path, manifest, force):
    (tmp_path / 'thesis.tex').write_text('precious')
    if manifest is not None:
        (tmp_path / mini.MANIFEST).write_text(manifest)
    before = read_bytes(tmp_path)
    with pytest.raises(MiniDataError, match='without a valid manifest.json'):
        make_mini_data(tmp_path, **COUNTS, force=force, quiet=True)
    assert read_bytes(tmp_path) == before


@pytest.mark.parametrize('force', [False, True])
def test_a_foreign_file_in_our_folder_is_left_alone(copy, force):
    (copy / 'imagenet/train/digit_0/mine.png').write_text('precious')
    before = read_bytes(copy)
    with pytest.raises(MiniDataError, match='holds imagenet/train/digit_0/mine.png that'):
        make_mini_data(copy, **COUNTS, force=force, quiet=True)
    assert read_bytes(copy) == before


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path):
    (tmp_path / 'mini').write_text('precious')
    with pytest.raises(MiniDataError, match='without a valid manifest.json'):
        make_mini_data(tmp_path / 'mini', **COUNTS, force=True, quiet=True)
    assert (tmp_path / 'mini').read_text() == 'precious'


@pytest.mark.parametrize('existing', [False, True])
def test_an_interrupted_run_leaves_nothing_half_done(copy, tmp_path, monkeypatch, existing):
    if not existing:
        shutil.rmtree(copy)
    before = read_bytes(copy)
    calls = iter(range(50))
    write = mini._Folder.write

    def interrupted_write(*args):
        if next(calls) == 49:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(mini._Folder, 'write', interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        make_mini_data(copy, seed=5, **COUNTS, force=True, quiet=True)
    assert read_bytes(copy) == before
    assert list(tmp_path.iterdir()) == ([copy] if existing else [])


@pytest.mark.parametrize(
    'arguments', [{'seed': -1}, {'seed': 0.5}, {'scale': 0}, {'scene_size': 31}]
)
def test_bad_arguments_are_named(tmp_path, arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f'^{name} must be .*, but is {value}'):
        make_mini_data(tmp_path / 'mini', **arguments)
    assert not (tmp_path / 'mini').exists()


# The toolboxes read the folders as they read the real sets


@pytest.mark.parametrize(('split', 'count'), [('train', 80), ('val', 20)])
def test_mmpretrain_reads_the_imagenet_layout(root, split, count):
    datasets = pytest.importorskip('mmpretrain.datasets')
    dataset = datasets.ImageNet(
        data_root=str(root / 'imagenet'),
        split=split,
        metainfo={'classes': CLASSES},
        pipeline=[{'type': 'LoadImageFromFile'}, {'type': 'PackInputs'}],
    )
    assert len(dataset) == count
    labels = Counter(int(dataset[i]['data_samples'].gt_label) for i in range(count))
    assert labels == dict.fromkeys(range(10), count // 10)
    assert dataset[0]['inputs'].shape == (3, 64, 64)
    info = dataset.get_data_info(count - 1)
    assert CLASSES[info['gt_label']] in info['img_path']


@pytest.mark.parametrize(('split', 'count'), [('train', 12), ('val', 10)])
def test_mmdet_reads_the_coco_layout(root, split, count):
    datasets = pytest.importorskip('mmdet.datasets')
    from pycocotools.coco import COCO

    annotations = root / f'coco/annotations/instances_{split}2017.json'
    dataset = datasets.CocoDataset(
        data_root=str(root / 'coco'),
        ann_file=f'annotations/instances_{split}2017.json',
        data_prefix={'img': f'{split}2017/'},
        metainfo={'classes': CLASSES},
        filter_cfg={'filter_empty_gt': True, 'min_size': 32},
        pipeline=[
            {'type': 'mmdet.LoadImageFromFile'},
            {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True},
            {'type': 'mmdet.PackDetInputs'},
        ],
    )
    assert len(dataset) == count - 1  # the image without digits
    coco = COCO(annotations)
    for item in dataset:
        assert item['inputs'].shape == (3, 128, 128)
        instances = item['data_samples'].gt_instances
        truth = coco.imgToAnns[item['data_samples'].img_id]
        assert instances.labels.tolist() == [a['category_id'] - 1 for a in truth]
        assert np.array_equal(instances.masks.masks, [coco.annToMask(a) for a in truth])
        boxes = np.array([a['bbox'] for a in truth])
        boxes[:, 2:] += boxes[:, :2]
        assert np.array_equal(instances.bboxes.tensor.numpy(), boxes)


@pytest.mark.parametrize(('split', 'count'), [('training', 12), ('validation', 10)])
def test_mmseg_reads_the_ade20k_layout(root, split, count):
    datasets = pytest.importorskip('mmseg.datasets')
    dataset = datasets.BaseSegDataset(
        data_root=str(root / ADE),
        data_prefix={'img_path': f'images/{split}', 'seg_map_path': f'annotations/{split}'},
        reduce_zero_label=True,
        metainfo={'classes': SEG_CLASSES},
        pipeline=[
            {'type': 'mmseg.LoadImageFromFile'},
            {'type': 'mmseg.LoadAnnotations'},
            {'type': 'mmseg.PackSegInputs'},
        ],
    )
    assert len(dataset) == count
    for item in dataset:
        sample = item['data_samples']
        raw = cv2.imread(sample.seg_map_path, cv2.IMREAD_UNCHANGED).astype(int)
        assert np.array_equal(sample.gt_sem_seg.data[0], np.where(raw == 0, 255, raw - 1))
        assert item['inputs'].shape == (3, 128, 128)
