# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Files that would do something else than what they are read for."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import pickle
import shutil
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from mmdmformer import get_model, test, train
from mmdmformer.analysis.loaded_model import load_model
from mmdmformer.checkpoints import (
    CheckpointError,
    convert_checkpoint,
    fold_checkpoint,
    publish,
    swin_acmix,
    timm_names,
)
from mmdmformer.datasets.archives import ArchiveError, open_archive, unpack
from mmdmformer.deploy.networks import build_network
from mmdmformer.engine.model import build_model
from small_settings import settings

from . import Outcome, fault
from .cases import Failure, run_cases
from .mini_runs import CONFIGS, make_data


class Payload:
    """Pickles as a call.

    Args:
        function (Callable): What is called when the file is loaded.
        args (Any): Its arguments.
    """

    def __init__(self, function: Callable, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def write_malicious(path: Path, mark: Path, rng: np.random.Generator) -> None:
    """Write a checkpoint that makes the folder ``mark`` when it is unpickled."""
    code = f'__import__("os").mkdir({str(mark)!r})'
    payload = (Payload(os.mkdir, str(mark)), Payload(eval, code), Payload(exec, code))[
        rng.integers(3)
    ]
    content = dict(state_dict=dict(weight=torch.ones(3)), meta=dict(epoch=1, iter=1))
    content[str(rng.choice(['state_dict', 'meta', 'optimizer', 'x']))] = payload
    match rng.integers(3):
        case 0:
            torch.save(content, path)
        case 1:
            torch.save(content, path, _use_new_zipfile_serialization=False)
        case 2:
            path.write_bytes(pickle.dumps(content, protocol=2))


@fault(
    'Security',
    'Checkpoints that bring code',
    how='in three forms, by each way in: load_from, --resume, Pretrained, CheckedPretrained, the '
    'test entry, the converters, a URL, publishing, exports, pictures, get_model',
    times=140,
)
def malicious_checkpoints(times: int, folder: Path, seed: int) -> Outcome:
    """Give a checkpoint that would make a folder to everything that loads one."""
    make_data(folder)
    return run_cases(partial(_load, folder), times, seed)


def _load(folder: Path, rng: np.random.Generator) -> str:
    file, mark = folder / 'malicious.pth', folder / 'mark'
    write_malicious(file, mark, rng)
    name = str(rng.choice(list(_WAYS_IN)))
    try:
        message = _WAYS_IN[name](folder, file)
    finally:
        if mark.exists():
            mark.rmdir()
            raise Failure(f'{name} runs the code')
    if f"Refused to load checkpoint '{file}', which would run code" not in message:
        raise Failure(f'{name} says {message[-300:]}')
    return 'refused with its name'


def _config(folder: Path) -> list[str]:
    """The arguments of a training run."""
    path = CONFIGS / 'mini/dmformer-nano_mini-imagenet.py'
    small = dict(num_workers=0, batch_size=4, image_size=32)
    options = settings(path, data_root=f'{folder}/data/imagenet', **small)
    return [str(path), '--work-dir', str(folder / 'work'), '--cfg-options', *options]


def _run(main: Callable, *args: str) -> str:
    """What an entry says on stderr before it exits with code 2."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            main([*args])
        except SystemExit as exit:
            if exit.code == 2:
                return stderr.getvalue()
    raise Failure(f'it goes on: {stderr.getvalue()[-300:]}')


def _initialize(kind: str, folder: Path, file: Path) -> str:
    place = 'model.backbone.init_cfg'
    return _run(train.main, *_config(folder), f'{place}.type={kind}', f'{place}.checkpoint={file}')


def _fold(folder: Path, file: Path) -> str:
    cfg = Config.fromfile(_config(folder)[0])
    return _told(fold_checkpoint, build_model(cfg), str(file), folder / 'out.pth')


def _export(folder: Path, file: Path) -> str:
    cfg = Config.fromfile(_config(folder)[0])
    return _told(build_network, cfg, str(file))


def _fetch(folder: Path, file: Path) -> str:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    os.environ['TORCH_HOME'] = str(folder / file.stem)
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/{file.name}'
        message = _told(CheckpointLoader.load_checkpoint, url)
        server.shutdown()
    shutil.rmtree(folder / file.stem)  # where torch keeps what it fetched
    return message.replace(url, str(file))


def _told(load: Callable, *args: Any) -> str:
    try:
        load(*args)
    except CheckpointError as error:
        return str(error)
    raise Failure('it is loaded')


_WAYS_IN = dict(
    load_from=lambda folder, file: _run(train.main, *_config(folder), f'load_from={file}'),
    resume=lambda folder, file: _run(train.main, *_config(folder), '--resume', str(file)),
    pretrained=partial(_initialize, 'Pretrained'),
    checked=partial(_initialize, 'CheckedPretrained'),
    test=lambda folder, file: _run(test.main, _config(folder)[0], str(file), *_config(folder)[1:]),
    fold=_fold,
    publish=lambda folder, file: _told(publish, str(file), folder / 'out.pth'),
    rename=lambda folder, file: _told(
        convert_checkpoint, file, folder / 'out.pth', timm_names.exchange_names
    ),
    acmix=lambda folder, file: _told(
        convert_checkpoint, file, folder / 'out.pth', swin_acmix.from_authors
    ),
    get_model=lambda folder, file: _told(get_model, 'dmformer_nano', str(file)),
    draw=lambda folder, file: _told(load_model, _config(folder)[0], str(file)),
    export=_export,
    url=_fetch,
)


# Archives


@fault(
    'Security',
    'Archives that lead out of their folder',
    how='zip and tar with ../, absolute paths, backslashes, links, devices, also below folders',
    times=200,
)
def malicious_archives(times: int, folder: Path, seed: int) -> Outcome:
    """Unpack archives as the converters do; nothing may be written but below the folder."""
    return run_cases(partial(_unpack, folder), times, seed)


_NAMES = ('../evil', 'a/../../evil', '/evil', '..\\evil', 'a\\..\\..\\evil', '..', 'a/..')
_LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)


def _unpack(folder: Path, rng: np.random.Generator) -> str:
    archive = folder / str(rng.choice(['archive.zip', 'archive.tar']))
    out = folder / 'deep/down/out'
    members = [(f'a/{number}..x', b'1', None) for number in range(rng.integers(4))]
    evil = rng.random() < 0.8
    if evil:
        name, link = str(rng.choice(_NAMES)), None
        if rng.random() < 0.4:
            name, link = 'a/link', _LINKS[rng.integers(len(_LINKS))]
        members.insert(rng.integers(len(members) + 1), (name, b'../..', link))
        members.append(('a/link/evil', b'1', None))
    _write_zip(archive, members) if archive.suffix == '.zip' else _write_tar(archive, members)
    try:
        with open_archive(archive) as found:
            unpack(archive, found, out)
    except ArchiveError as error:
        if not evil or str(archive) not in str(error):
            raise Failure(f'{[name for name, _, _ in members]}: {error}') from error
        what = 'refused with its name'
    else:
        if evil:
            raise Failure(f'{[name for name, _, _ in members]} is unpacked')
        what = 'no fault put in: unpacked'
    written = [path for path in (Path('/evil'), *folder.rglob('*evil*')) if path.exists()]
    if written or (evil and out.exists()):
        raise Failure(f'{written or out} is written')
    shutil.rmtree(out, ignore_errors=True)
    return what


def _write_zip(path: Path, members: list[tuple[str, bytes, bytes | None]]) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content, link in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = ((stat.S_IFLNK if link else stat.S_IFREG) | 0o644) << 16
            archive.writestr(info, content)


def _write_tar(path: Path, members: list[tuple[str, bytes, bytes | None]]) -> None:
    with tarfile.open(path, 'w') as archive:
        for name, content, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = link or tarfile.REGTYPE, content.decode() if link else ''
            info.size = 0 if link else len(content)
            archive.addfile(info, io.BytesIO(content))
