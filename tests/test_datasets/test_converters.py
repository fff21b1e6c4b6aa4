# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Archives of the published names and forms, with a handful of files in each."""

import gzip
import io
import json
import shutil
import stat
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from mmdmformer.datasets import archives, converters
from mmdmformer.datasets.archives import ArchiveError
from mmdmformer.datasets.layouts import ADE20K, COCO, IMAGENET, Files, Instances

TOOLS = Path(__file__).parents[2] / 'tools/dataset_converters'
# ImageNet numbers its classes in another order than that of their names; 4 is no leaf.
WNIDS = {1: 'n03', 2: 'n01', 3: 'n02', 4: 'n00'}
VAL_IDS = [3, 1, 2, 2, 1, 3]
SMALL_IMAGENET = replace(
    IMAGENET, parts=(Files('train', 12, classes=3), Files('val', 6, classes=3))
)
SMALL_COCO = replace(
    COCO,
    parts=(
        Files('train2017', 5),
        Files('val2017', 3),
        Instances('annotations/instances_train2017.json', 'train2017', 5),
        Instances('annotations/instances_val2017.json', 'val2017', 3),
    ),
)
SMALL_ADE20K = replace(
    ADE20K,
    parts=tuple(
        replace(part, count=4 if part.folder.endswith('training') else 2) for part in ADE20K.parts
    ),
)


def some_bytes(seed):
    """The contents of a file, of a few thousand bytes."""
    rng = np.random.default_rng(seed)
    return rng.bytes(1000 + int(rng.integers(3000)))


def write_tar(file, contents):
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def tar_bytes(contents):
    file = io.BytesIO()
    write_tar(file, contents)
    return file.getvalue()


def write_zip(path, contents):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def make_imagenet(folder):
    """Write the three archives; return what must be unpacked."""
    wnids = [WNIDS[i] for i in (1, 2, 3)]
    train = {
        wnid: {f'{wnid}_{i}.JPEG': some_bytes([10, k, i]) for i in range(4)}
        for k, wnid in enumerate(wnids)
    }
    val = {f'ILSVRC2012_val_{i:08d}.JPEG': some_bytes([11, i]) for i in range(1, len(VAL_IDS) + 1)}
    with (folder / converters.IMAGENET_TRAIN).open('wb') as file:
        write_tar(file, {f'{wnid}.tar': tar_bytes(files) for wnid, files in train.items()})
    with (folder / converters.IMAGENET_VAL).open('wb') as file:
        write_tar(file, val)
    synsets = np.zeros((len(WNIDS), 1), [(n, object) for n in ('ILSVRC2012_ID', 'WNID', 'words')])
    for row, (number, wnid) in zip(synsets[:, 0], WNIDS.items(), strict=True):
        row['ILSVRC2012_ID'], row['WNID'], row['words'] = float(number), wnid, 'a thing'
    meta = io.BytesIO()
    savemat(meta, {'synsets': synsets})
    devkit = {
        'ILSVRC2012_devkit_t12/data/meta.mat': meta.getvalue(),
        'ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt': (
            '\n'.join(map(str, VAL_IDS)) + '\n'
        ).encode(),
    }
    (folder / converters.IMAGENET_DEVKIT).write_bytes(gzip.compress(tar_bytes(devkit)))
    expected = {f'train/{w}/{name}': c for w, files in train.items() for name, c in files.items()}
    labels = ['n02', 'n03', 'n01', 'n01', 'n03', 'n02']
    return expected | {
        f'val/{w}/{name}': c for w, (name, c) in zip(labels, val.items(), strict=True)
    }


def instances(names):
    images = [dict(id=i, file_name=name, height=8, width=8) for i, name in enumerate(names)]
    box = dict(category_id=3, bbox=[1, 2, 3, 4], area=12)
    annotations = [dict(id=7 + i, image_id=i, **box) for i in range(len(names))]
    return dict(images=images, annotations=annotations, categories=[dict(id=3, name='thing')])


def make_coco(folder):
    expected, annotations = {}, {}
    for split, count in (('train2017', 5), ('val2017', 3)):
        names = [f'{i:012d}.jpg' for i in range(count)]
        files = {f'{split}/{name}': some_bytes([20, count, i]) for i, name in enumerate(names)}
        write_zip(folder / f'{split}.zip', files)
        text = json.dumps(instances(names)).encode()
        annotations[f'annotations/instances_{split}.json'] = text
        expected |= files
    write_zip(folder / converters.COCO_ANNOTATIONS, annotations)
    return expected | annotations


def make_ade20k(folder):
    expected = {'objectInfo150.txt': b'wall\n'}
    for part in SMALL_ADE20K.parts:
        for i in range(part.count):
            expected[f'{part.folder}/ADE_{i:08d}{part.suffixes[0]}'] = some_bytes([30, i])
    files = {f'ADEChallengeData2016/{name}': content for name, content in expected.items()}
    with zipfile.ZipFile(folder / converters.ADE20K_ARCHIVE, 'w') as archive:
        archive.writestr('ADEChallengeData2016/', b'')
        for name, content in files.items():
            archive.writestr(name, content)
    return expected


SETS = {
    'imagenet': (make_imagenet, converters.prepare_imagenet, SMALL_IMAGENET),
    'coco': (make_coco, converters.prepare_coco, SMALL_COCO),
    'ade20k': (make_ade20k, converters.prepare_ade20k, SMALL_ADE20K),
}


@pytest.fixture(params=SETS)
def published(request, tmp_path):
    """The archives of a data set: their folder, what they hold, and what unpacks them."""
    make, prepare, layout = SETS[request.param]
    folder = tmp_path / 'archives'
    folder.mkdir()

    def run(**options):
        prepare(folder, tmp_path / 'out', layout=layout, quiet=True, **options)

    return folder, make(folder), run


def files_in(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()
    }


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


def test_every_file_lands_in_its_place_and_a_second_run_writes_nothing(published, tmp_path):
    folder, expected, run = published
    run()
    assert files_in(tmp_path / 'out') == expected
    before = times(tmp_path / 'out')
    run()
    assert times(tmp_path / 'out') == before
    shutil.rmtree(folder)  # what is complete needs its archives no longer
    run()


# Stops while it writes the sixth file, as a machine that is switched off.
STOPPED = """
import os, shutil, sys
from pathlib import Path

from mmdmformer.datasets import converters
from mmdmformer.datasets.layouts import Files, Instances, Layout

copied = []

def copy(source, target, length):
    copied.append(target)
    if len(copied) == 6:
        target.write(source.read(100))
        target.flush()
        os._exit(9)
    target.write(source.read())

shutil.copyfileobj = copy
converters.{prepare.__name__}({folder!r}, {out!r}, layout={layout!r})
"""


@pytest.mark.slow
def test_goes_on_after_an_interruption(published, bare_python, tmp_path, request):
    folder, expected, run = published
    _, prepare, layout = SETS[request.node.callspec.params['published']]
    out, script = tmp_path / 'out', tmp_path / 'stopped.py'
    script.write_text(
        STOPPED.format(prepare=prepare, folder=str(folder), out=str(out), layout=layout)
    )
    assert bare_python(script, cwd=tmp_path).returncode == 9
    partial = [p for p in out.rglob('*') if p.name.endswith('.partial')]
    assert [p.stat().st_size for p in partial] == [100]
    there = {name: c for name, c in files_in(out).items() if not name.endswith('.partial')}
    assert len(there) == 5 and there.items() <= expected.items()
    assert layout.find_faults(out)
    before = times(out)
    run()
    assert files_in(out) == expected
    after = times(out)
    assert all(after[out / name] == before[out / name] for name in there)


def test_a_file_of_another_size_is_written_again(published, tmp_path):
    _, expected, run = published
    run()
    name = sorted(expected)[0]
    (tmp_path / 'out' / name).write_bytes(expected[name][:-1])
    run()
    assert files_in(tmp_path / 'out') == expected


def one_sentence(error):
    text = str(error.value)
    assert '\n' not in text and text.endswith('.')
    return text


def biggest(folder):
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.7])
def test_truncated_archive_is_named(share, published, tmp_path):
    folder, expected, run = published
    archive = biggest(folder)
    complete = archive.read_bytes()
    archive.write_bytes(complete[: int(share * len(complete))])
    with pytest.raises(ArchiveError) as error:
        run()
    assert one_sentence(error).startswith(f'{archive} is truncated or damaged')
    there = files_in(tmp_path / 'out') if (tmp_path / 'out').exists() else {}
    assert there.items() <= expected.items()
    archive.write_bytes(complete)
    run()
    assert files_in(tmp_path / 'out') == expected


@pytest.mark.parametrize('name', [converters.IMAGENET_TRAIN, converters.IMAGENET_VAL])
def test_tar_that_is_cut_between_two_files_is_named(name, tmp_path):
    make_imagenet(tmp_path)
    with tarfile.open(tmp_path / name) as archive:
        end = archive.getmembers()[-1].offset
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:end])
    with pytest.raises(ArchiveError) as error:
        converters.prepare_imagenet(tmp_path, tmp_path / 'out', layout=SMALL_IMAGENET, quiet=True)
    assert f'{name} is truncated' in one_sentence(error)


def test_truncated_archive_of_a_class_is_named(tmp_path):
    make_imagenet(tmp_path)
    with tarfile.open(tmp_path / converters.IMAGENET_TRAIN) as archive:
        classes = {m.name: archive.extractfile(m).read() for m in archive}
    classes['n01.tar'] = classes['n01.tar'][:1500]
    with (tmp_path / converters.IMAGENET_TRAIN).open('wb') as file:
        write_tar(file, classes)
    with pytest.raises(ArchiveError, match='ILSVRC2012_img_train.tar is truncated or damaged'):
        converters.prepare_imagenet(tmp_path, tmp_path / 'out', layout=SMALL_IMAGENET, quiet=True)


def test_damaged_bytes_are_noticed(tmp_path):
    """A zip archive has a checksum for each file."""
    make_ade20k(tmp_path)
    archive = tmp_path / converters.ADE20K_ARCHIVE
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match='truncated or damaged .*CRC'):
        converters.prepare_ade20k(tmp_path, tmp_path / 'out', layout=SMALL_ADE20K, quiet=True)


def test_missing_archive_is_named(published, tmp_path):
    folder, _, run = published
    archive = biggest(folder)
    archive.unlink()
    with pytest.raises(ArchiveError) as error:
        run()
    assert one_sentence(error).startswith(f'{archive} does not exist')


def test_development_kit_of_other_images_is_named(tmp_path):
    make_imagenet(tmp_path)
    layout = replace(SMALL_IMAGENET, parts=(SMALL_IMAGENET.parts[0], Files('val', 7, classes=3)))
    with pytest.raises(ArchiveError) as error:
        converters.prepare_imagenet(tmp_path, tmp_path / 'out', layout=layout, quiet=True)
    assert 'has the classes of 6 images, not of 7' in one_sentence(error)


def test_result_that_is_not_complete_is_an_error(tmp_path):
    make_ade20k(tmp_path)
    training, *others = SMALL_ADE20K.parts
    layout = replace(SMALL_ADE20K, parts=(replace(training, count=5), *others))
    with pytest.raises(ArchiveError) as error:
        converters.prepare_ade20k(tmp_path, tmp_path / 'out', layout=layout, quiet=True)
    assert one_sentence(error) == (
        f'{tmp_path}/out is not a complete ADE20K: images/training holds 4 files, not 5.'
    )


@pytest.mark.parametrize('name', ['../evil', 'images/../../evil', '/evil', 'images\\..\\evil'])
@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_path_out_of_the_folder_is_refused(name, kind, tmp_path):
    archive = tmp_path / f'archive.{kind}'
    if kind == 'zip':
        write_zip(archive, {'good': b'1', name: b'1'})
    else:
        archive.write_bytes(tar_bytes({'good': b'1', name: b'1'}))
    opened = archives.open_archive(archive)
    with pytest.raises(ArchiveError, match='leads out of the directory') as error, opened:
        pytest.fail('opened')
    one_sentence(error)


def test_path_out_of_the_folder_in_the_archive_of_a_class_is_refused(tmp_path):
    make_imagenet(tmp_path)
    bad = {'n01.tar': tar_bytes({'../../evil': b'1'}), 'n02.tar': b'', 'n03.tar': b''}
    with (tmp_path / converters.IMAGENET_TRAIN).open('wb') as file:
        write_tar(file, bad)
    with pytest.raises(ArchiveError, match='leads out of the directory'):
        converters.prepare_imagenet(tmp_path, tmp_path / 'out', layout=SMALL_IMAGENET, quiet=True)
    assert not list(tmp_path.rglob('evil'))


def test_link_is_refused(tmp_path):
    path = tmp_path / 'archive.tar'
    with tarfile.open(path, 'w') as archive:
        info = tarfile.TarInfo('link')
        info.type, info.linkname = tarfile.SYMTYPE, '/etc'
        archive.addfile(info)
    opened = archives.open_archive(path)
    with pytest.raises(ArchiveError, match='neither a file nor a directory'), opened:
        pytest.fail('opened')


def test_link_in_a_zip_is_refused(tmp_path):
    path = tmp_path / 'archive.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        info = zipfile.ZipInfo('link')
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, '/etc')
    opened = archives.open_archive(path)
    with pytest.raises(ArchiveError, match='neither a file nor a directory'), opened:
        pytest.fail('opened')


@pytest.mark.parametrize('name', ['..', '../../evil', 'images'])
def test_class_that_is_a_path_is_refused(name, tmp_path, monkeypatch):
    """The names of the folders come out of the development kit."""
    make_imagenet(tmp_path)
    (tmp_path / 'forged').mkdir()
    monkeypatch.setitem(WNIDS, 3, name)
    make_imagenet(tmp_path / 'forged')
    (tmp_path / 'forged' / converters.IMAGENET_DEVKIT).replace(
        tmp_path / converters.IMAGENET_DEVKIT
    )
    with pytest.raises(ArchiveError, match=f'holds the class {name}, which is no WordNet ID'):
        converters.prepare_imagenet(tmp_path, tmp_path / 'out', layout=SMALL_IMAGENET, quiet=True)
    assert not (tmp_path / 'out/val').exists() and not list(tmp_path.rglob('evil'))


def test_class_archive_that_is_a_path_is_refused(tmp_path):
    make_imagenet(tmp_path)
    with (tmp_path / converters.IMAGENET_TRAIN).open('wb') as file:
        write_tar(file, {'n01.tar': b'', 'n02.tar': b'', '...tar': tar_bytes({'evil': b'1'})})
    with pytest.raises(ArchiveError, match='holds the class .., which is no WordNet ID'):
        converters.prepare_imagenet(tmp_path, tmp_path / 'out', layout=SMALL_IMAGENET, quiet=True)
    assert not (tmp_path / 'out').exists()


def test_full_disk_is_noticed_before_anything_is_written(published, tmp_path, monkeypatch):
    _, _, run = published
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    with pytest.raises(ArchiveError) as error:
        run()
    assert 'GB more' in one_sentence(error) and 'make room' in str(error.value)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('spoil', 'complaint'),
    [
        (
            lambda c: c['images'][1].update(file_name='x.jpg'),
            'image 1 is x.jpg, which is not in {images}.',
        ),
        (
            lambda c: c['annotations'][2].update(image_id=9),
            'annotation 9 refers to image 9, which is not in the file: '
            'correct or restore the file.',
        ),
        (
            lambda c: c['annotations'][0].pop('category_id'),
            'entry 0 of annotations (id 7) has no category_id: correct or restore the file.',
        ),
    ],
)
def test_annotations_that_do_not_fit_are_named(spoil, complaint, tmp_path):
    names = ['a.jpg', 'b.jpg', 'c.jpg']
    for name in names:
        (tmp_path / name).touch()
    content = instances(names)
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(content))
    converters.check_instance_file(path, tmp_path)
    spoil(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ArchiveError) as error:
        converters.check_instance_file(path, tmp_path)
    assert one_sentence(error).startswith(str(path))
    assert one_sentence(error).endswith(complaint.format(images=tmp_path))


@pytest.mark.parametrize('tool', SETS)
def test_tool_says_a_mistake_in_one_sentence(tool, bare_python, tmp_path):
    result = bare_python(TOOLS / f'{tool}.py', 'nowhere', cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith('error: nowhere/') and 'does not exist: download it' in line


def test_tool_unpacks_with_a_progress_bar_and_says_what_is_incomplete(bare_python, tmp_path):
    make_ade20k(tmp_path)
    result = bare_python(TOOLS / 'ade20k.py', tmp_path, '--out', 'ade', cwd=tmp_path)
    assert 'ADEChallengeData2016.zip' in result.stdout and '━' in result.stdout
    assert len(list((tmp_path / 'ade/images/training').iterdir())) == 4
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith('error: ade is not a complete ADE20K: images/training holds 4 files,')
