# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the documentation tells people to type exists, and means what they are told."""

import re
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdmformer import train

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted(path for path in (ROOT / 'docs').rglob('*.md'))
# Which program takes the options of a launcher, or of what checks before a launch.
OPTIONS_OF = {
    'tools/dist_train.sh': 'tools/train.py',
    'tools/slurm_train.sh': 'tools/train.py',
    'tools/dist_test.sh': 'tools/test.py',
    'tools/slurm_test.sh': 'tools/test.py',
    'tools/doctor.py': 'tools/train.py',
}


def commands(path):
    """The commands in the bash blocks of a page, as lists of words."""
    for block in re.findall(r'^```bash\n(.*?)^```', path.read_text(), re.M | re.S):
        for line in block.replace('\\\n', ' ').splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def calls():
    """Every call of a tool: the page, the tool, and the words after it."""
    for path in DOCS:
        for words in commands(path):
            for place, word in enumerate(words):
                if re.fullmatch(r'tools/.*\.(py|sh)', word):
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
    assert {path.name for path, _, _ in CALLS} >= {'clusters.md'}
    assert {tool for _, tool, _ in CALLS} >= set(OPTIONS_OF) - {'tools/slurm_test.sh'}


@pytest.mark.parametrize('path', DOCS, ids=lambda path: path.name)
def test_every_path_exists(path):
    named = re.findall(r'(?<![\w/])(?:tools|configs)/[\w./-]+\w', path.read_text())
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
    (config,) = (word for word in arguments if re.fullmatch(r'configs/.*\.py', word))
    settings = arguments[arguments.index('--cfg-options') :]
    parsed = train._parser().parse_args([config, *settings])
    cfg = Config.fromfile(ROOT / config)
    for name in parsed.cfg_options:
        if 'init_kwargs' in name:
            continue  # arguments of W&B itself
        node = cfg
        for key in name.split('.'):
            node = node[int(key) if isinstance(node, list) else key]
    cfg.merge_from_dict(parsed.cfg_options)


@pytest.mark.parametrize('path', DOCS, ids=lambda path: path.name)
def test_python_blocks_are_configs_that_can_be_read(path, tmp_path):
    for block in re.findall(r'^```python\n(.*?)^```', path.read_text(), re.M | re.S):
        config = tmp_path / 'config.py'
        config.write_text(block.replace("_base_ = '", f"_base_ = '{ROOT}/configs/dmformer/"))
        Config.fromfile(config)
