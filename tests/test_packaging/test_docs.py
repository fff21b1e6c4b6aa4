# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the documentation tells people to type exists, means what they are told, and reads well."""

import re
import shlex
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import mmdmformer
from mmdmformer import train
from mmdmformer.compat import report
from mmdmformer.engine.model import build_model

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / 'docs').glob('**/*.md'))
PAGES = [ROOT / 'README.md', *DOCS, *sorted((ROOT / 'configs').glob('*/README.md'))]
# Which program takes the options of a launcher, or of what checks before a launch.
OPTIONS_OF = {
    'tools/dist_train.sh': 'tools/train.py',
    'tools/slurm_train.sh': 'tools/train.py',
    'tools/dist_test.sh': 'tools/test.py',
    'tools/slurm_test.sh': 'tools/test.py',
    'tools/doctor.py': 'tools/train.py',
}
# Settings that a config need not have: arguments of the backbone or of a constructor.
NEW_SETTINGS = {
    'model.backbone.deploy',
    'model.backbone.rates',
    'optim_wrapper.constructor',
    'optim_wrapper.paramwise_cfg.layer_decay_rate',
}

each_page = pytest.mark.parametrize('path', PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(path, language):
    """The code blocks of a page in a language."""
    return re.findall(rf'^```{language}\n(.*?)^```', path.read_text(), re.M | re.S)


def commands(path):
    """The commands in the bash blocks of a page, as lists of words."""
    for block in blocks(path, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def calls():
    """Every call of a program: the page, the program, and the words after it."""
    for path in PAGES:
        for words in commands(path):
            for place, word in enumerate(words):
                if re.fullmatch(r'tools/.*\.(py|sh)|(benchmarks|demo)/.*\.py', word):
                    yield path, word, words[place + 1 :]
                    break


CALLS = list(calls())
each_call = pytest.mark.parametrize(
    ('path', 'tool', 'arguments'),
    CALLS,
    ids=[f'{tool}-{i}' for i, (_, tool, _) in enumerate(CALLS)],
)


@pytest.fixture(scope='module')
def help_of(python, tmp_path_factory):
    texts, folder = {}, tmp_path_factory.mktemp('help')

    def ask(tool):
        if tool not in texts:
            result = python(ROOT / tool, '--help', cwd=folder)
            assert result.returncode == 0, result.stderr
            texts[tool] = result.stdout
        return texts[tool]

    return ask


def test_there_are_pages_with_commands():
    assert {path.name for path, _, _ in CALLS} >= {'README.md', 'clusters.md', 'get_started.md'}
    assert {tool for _, tool, _ in CALLS} >= set(OPTIONS_OF) - {'tools/slurm_test.sh'}


@each_page
def test_every_path_exists(path):
    named = re.findall(r'(?<![\w/])(?:benchmarks|configs|demo|tools)/[\w./-]+\w', path.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
    targets = {words[1] for words in commands(path) if words[0] == 'make'}
    assert targets <= set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M))


@each_call
def test_options_are_those_of_the_tool(path, tool, arguments, help_of):
    text = help_of(OPTIONS_OF.get(tool, tool))
    options = [word.partition('=')[0] for word in arguments if word.startswith('--')]
    assert [option for option in options if option not in re.findall(r'--[\w-]+', text)] == []


@pytest.mark.parametrize(
    'arguments', [words for _, _, words in CALLS if '--cfg-options' in words], ids=' '.join
)
def test_settings_are_those_of_the_config(arguments):
    """A setting that no config has would be added without a word, and change nothing."""
    config = next(word for word in arguments if re.fullmatch(r'configs/.*\.py|CONFIG', word))
    config = config.replace('CONFIG', 'configs/dmformer/dmformer-s_8xb128_in1k.py')
    settings = arguments[arguments.index('--cfg-options') :]
    parsed = train._parser().parse_args([config, *settings])
    cfg = Config.fromfile(ROOT / config)
    for name in parsed.cfg_options:
        if 'init_kwargs' in name or name in NEW_SETTINGS:
            continue  # the former are arguments of W&B itself
        node = cfg
        for key in name.split('.'):
            node = node[int(key) if isinstance(node, list) else key]
    cfg.merge_from_dict(parsed.cfg_options)


def is_program(block):
    return re.search(r'^(import|from) ', block, re.M) is not None


@pytest.mark.parametrize(
    'path',
    # test_docs_example.py and tests/test_clients run them
    [p for p in PAGES if p.name not in ('add_a_mixer.md', 'clients.md', 'sister_toolboxes.md')],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_python_blocks_are_configs_that_can_be_read_or_programs_that_run(path, python, tmp_path):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    programs = [block for block in blocks(path, 'python') if is_program(block)]
    if programs:
        script = tmp_path / 'programs.py'
        script.write_text('\n'.join(programs))
        result = python(script, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    for block in blocks(path, 'python'):
        if block not in programs:
            read(block, tmp_path)


def read(block, folder):
    """Read a config of a page, as if it lay beside the configs of DMFormer or in the folder."""
    block = re.sub(r"_base_ = '(?=\w+-)", f"_base_ = '{ROOT}/configs/dmformer/", block)
    if 'forks' in report.stack():  # as docs/plug_in.md says
        block = block.replace('mmseg::', f'{Path(mmseg.__file__).parent}/.mim/configs/')
    config = folder / 'config.py'
    config.write_text(block)
    return Config.fromfile(config)


SHAPES = {
    'mmpretrain': [(2, 1000)],
    'mmdet': [(2, 720, side, side) for side in (8, 4, 2, 1, 1)],
    'mmseg': [(2, 150, 16, 16)],
}


@pytest.mark.parametrize('scope', SHAPES)
def test_configs_of_your_own_project_build_and_run(scope, tmp_path):
    page = ROOT / 'docs/plug_in.md'
    (block,) = (block for block in blocks(page, 'python') if f"'{scope}::" in block)
    model = build_model(read(block, tmp_path)).eval()
    assert isinstance(model.backbone, mmdmformer.DMFormer)
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, 64, 64), mode='tensor')
    outputs = outputs[0] if scope == 'mmdet' else [outputs]  # the scores, without the boxes
    assert [tuple(output.shape) for output in outputs] == SHAPES[scope]


def test_table_of_backbones():
    shown = set()
    for line in (ROOT / 'docs/models.md').read_text().splitlines():
        if not line.startswith('| `'):
            continue
        names, archs, _, channels, folded = (cell.strip() for cell in line.split('|')[1:-1])
        arch = re.findall('`(.*?)`', archs)[0]
        first = [int(number) for number in re.match(r'\d+(, \d+)*', channels)[0].split(', ')]
        for name in re.findall('`(.*?)`', names):
            shown.add(name)
            more = dict(out_type='pyramid') if name == 'DynamicViT' else {}
            if name == 'MetaFormer':
                arch = mmdmformer.DMFormer.arch_zoo[arch]
            model = MODELS.build(dict(type=name, arch=arch, out_indices=(0, 1, 2, 3), **more))
            assert model.out_channels == tuple(first if len(first) == 4 else 4 * first)
            assert hasattr(model, 'switch_to_deploy') == (folded == 'yes')
    assert shown == set(mmdmformer.backbones.__all__)
