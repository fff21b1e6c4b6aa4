# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The papers' printed sizes and results beside the sizes of the models that the configs build.

The sizes in the metafiles that model-index.yml lists are compared with models built from the
configs, and the tables of the README files are written. The README in the root shows five models.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
import yaml
from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.progress import track
from torch import nn

from markdown_pages import replace_between
from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.engine.model import build_model

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- paper table -->', '<!-- end of paper table -->'
UNITS = {'M': 1e6, 'G': 1e9}
SIZES = ('Parameters', 'FLOPs', 'Activations')  # the last in few papers
ACCURACIES = ('Top-1', 'Box AP', 'Mask AP', 'mIoU')
EXPLANATION = (
    'No network was trained on ImageNet, COCO or ADE20K here. Sizes are computed from the configs; '
    '{}. Bold: printed sizes that the exact ones do not round to.'
)
# What a collection's `Counting` says of its FLOPs. By default mmengine counts, norms included.
COUNTED = {
    'all': 'FLOPs are multiply-adds at 224x224 pixels',
    'backbone': (
        'FLOPs are multiply-adds of the backbone at 224x224 pixels, without the classifier, and '
        'activations the numbers that its convolutions and matrix products put out'
    ),
    'products': (
        'FLOPs are multiply-adds of convolutions and matrix products, at 224x224 pixels or the '
        'size that is given'
    ),
}


def read_metafiles(root: Path) -> list[Path]:
    """List the metafiles that the repository's ``model-index.yml`` imports, in its order.

    Args:
        root (Path): The repository.

    Returns:
        list[Path]: The files, one for each family of configs.
    """
    index = yaml.safe_load((root / 'model-index.yml').read_text(encoding='utf-8'))
    return [root / name for name in index['Import']]


def read_models(metafile: Path) -> list[dict]:
    """Read the entries of ``Models`` in a metafile, each with its collection's general fields.

    These are ``Counting`` and, if the paper does not state how it tests segmentation,
    ``Protocol``, a sentence about it.
    """
    content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    general = {
        collection['Name']: {
            'Counting': 'all',
            **{key: collection[key] for key in ('Counting', 'Protocol') if key in collection},
        }
        for collection in content['Collections']
    }
    return [{**general[model['In Collection']], **model} for model in content['Models']]


def check_sizes(models: list[dict], root: Path) -> list[str]:
    """Compare the sizes in a metafile with the models that its configs build.

    Args:
        models (list[dict]): Entries of a metafile.
        root (Path): Folder to which ``Config`` is relative.

    Returns:
        list[str]: A sentence for each entry that is wrong.
    """
    errors = []
    for entry in track(models, 'building the models'):
        counted = compute_metadata(entry, root)
        if counted != entry['Metadata']:
            errors.append(
                f'{entry["Name"]!r} says {entry["Metadata"]}, but {entry["Config"]} builds a '
                f'model of {counted}: correct the metafile.'
            )
    return errors


def compute_metadata(entry: dict, root: Path) -> dict[str, int]:
    """Count what a metafile entry's ``Metadata`` holds.

    Args:
        entry (dict): An entry of ``Models`` in a metafile.
        root (Path): Folder to which ``Config`` is relative.

    Returns:
        dict[str, int]: ``Parameters`` and, where the entry has them, ``FLOPs``: multiply-adds for
        an image of 224x224 pixels or of the height and width in ``Input``, counted by
        :mod:`mmengine.analysis` or, with ``Counting: products``, by
        :func:`~.multiply_adds.count_multiply_adds`; and ``Activations``: what convolutions and
        matrix products put out, also counted by :mod:`mmengine.analysis`.
    """
    model = build_model(Config.fromfile(root / entry['Config'])).eval()
    counted = {'Parameters': sum(p.numel() for p in model.parameters())}
    if 'FLOPs' in entry['Metadata']:
        if entry['Counting'] == 'products':
            counted['FLOPs'] = count_multiply_adds(model, entry.get('Input', (224, 224)))
        else:
            network = _Network(model, with_head=entry['Counting'] != 'backbone')
            counted['FLOPs'] = _count_with_mmengine(FlopAnalyzer, network)
            if 'Activations' in entry['Metadata']:
                counted['Activations'] = _count_with_mmengine(ActivationAnalyzer, network)
    return counted


class _Network(nn.Module):
    """A classifier without its data preprocessor, which only normalizes the images."""

    def __init__(self, classifier: nn.Module, with_head: bool) -> None:
        super().__init__()
        self.classifier = classifier
        self.with_head = with_head

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        features = self.classifier.extract_feat(image)
        return self.classifier.head(features) if self.with_head else features


def _count_with_mmengine(analyzer: type, network: nn.Module) -> int:
    return int(analyzer(network, torch.rand(1, 3, 224, 224)).total())


def agrees(printed: str, exact: int) -> bool:
    """Tell whether a printed size is the exact one, rounded.

    Args:
        printed (str): Such as ``'26.7 M'``.
        exact (int): Such as 26660392.

    Returns:
        bool: Whether they agree to the printed digits.

    Examples:
        >>> agrees('26.7 M', 26660392), agrees('54.8 M', 54720436), agrees('60 M', 60289484)
        (True, False, True)
    """
    number, unit = printed.split()
    return number == f'{exact / UNITS[unit]:.{len(number.partition(".")[2])}f}'


def make_header(models: list[dict]) -> list[str]:
    """Make the header of a table of printed and exact sizes, and of accuracies.

    Args:
        models (list[dict]): Entries of a metafile.

    Returns:
        list[str]: The cells. Activations are there if the paper prints some.
    """
    names = {'Parameters': 'parameters', 'FLOPs': 'FLOPs', 'Activations': 'activations'}
    sizes = [cell for key in _shown_sizes(models) for cell in (names[key], 'paper', 'difference')]
    return ['model', *sizes, 'accuracy, paper']


def _shown_sizes(models: list[dict]) -> list[str]:
    has_activations = any('Activations' in entry['Paper'] for entry in models)
    return [key for key in SIZES if key != 'Activations' or has_activations]


def make_rows(models: list[dict]) -> list[list[str]]:
    """Make the cells of a table of printed and exact sizes, and of accuracies.

    Printed sizes that the exact ones do not round to are bold, and refer to a
    note.

    Args:
        models (list[dict]): Entries of a metafile.

    Returns:
        list[list[str]]: One row for each entry, with the cells of :func:`make_header`.
    """
    rows, keys = [], _shown_sizes(models)
    number = 0
    for entry in models:
        number += 'Note' in entry
        accuracy = ', '.join(f'{k} {v}' for k, v in entry['Paper'].items() if k in ACCURACIES)
        accuracy += ' (protocol not stated)' * _lacks_protocol(entry)
        sizes = [cell for key in keys for cell in _size_cells(entry, key, f' [{number}]')]
        rows.append([entry['Name'], *sizes, accuracy])
    return rows


def _lacks_protocol(entry: dict) -> bool:
    return 'Protocol' in entry and 'mIoU' in entry['Paper']


def _size_cells(entry: dict, key: str, mark: str) -> list[str]:
    """The exact size, the printed one, and by how much the exact one differs."""
    if key not in entry['Metadata']:
        return ['', entry['Paper'].get(key, ''), '']
    exact = entry['Metadata'][key]
    shown = {
        'Parameters': f'{exact:,}',
        'FLOPs': f'{exact / 1e9:.3f} G',
        'Activations': f'{exact / 1e6:.3f} M',
    }[key]
    if key == 'FLOPs' and 'Input' in entry:
        shown += ' at {}x{}'.format(*entry['Input'])
    if key not in entry['Paper']:
        return [shown, '', '']
    printed = entry['Paper'][key]
    number, unit = printed.split()
    difference = f'{exact / UNITS[unit] - float(number):+.3f} {unit}'
    if agrees(printed, exact):
        return [shown, printed, difference]
    return [shown, f'**{printed}**{mark}', f'**{difference}**']


def make_notes(models: list[dict]) -> list[str]:
    """Number the notes of a metafile's entries, and say why a protocol is not stated."""
    notes = [entry['Note'].strip() for entry in models if 'Note' in entry]
    protocols = {entry['Protocol'].strip() for entry in models if _lacks_protocol(entry)}
    return [
        *(f'[{number}] {note}' for number, note in enumerate(notes, 1)),
        *(f'Protocol not stated: {reason}' for reason in protocols),
    ]


def make_text(models: list[dict]) -> str:
    """Make the table as text with aligned columns, and its notes."""
    rows = [make_header(models), *make_rows(models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return '\n'.join([*lines, *make_notes(models)])


def make_markdown(models: list[dict], folder: str) -> str:
    """Make the table in Markdown, with links to the configs, notes and an explanation.

    Args:
        models (list[dict]): Entries of a metafile.
        folder (str): Folder of the Markdown file, relative to the repository,
            as each entry's ``Config`` is.

    Returns:
        str: The text.
    """
    explanation = EXPLANATION.format(COUNTED[models[0]['Counting']])
    return '\n\n'.join([make_linked_rows(models, folder), explanation, *make_notes(models)])


def make_linked_rows(models: list[dict], folder: str) -> str:
    """Make the table in Markdown, with links to the configs, and nothing else.

    Args:
        models (list[dict]): See :func:`make_markdown`.
        folder (str): See :func:`make_markdown`.

    Returns:
        str: The text.
    """
    header = make_header(models)
    lines = [_row(header), _row(['---'] * len(header))]
    for entry, (name, *cells) in zip(models, make_rows(models), strict=True):
        lines.append(_row([f'[{name}]({os.path.relpath(entry["Config"], folder)})', *cells]))
    return '\n'.join(lines)


def make_front_table(models: list[dict]) -> str:
    """Make the front page's table in Markdown: DMFormer-S in each task.

    Args:
        models (list[dict]): Entries of DMFormer's metafile.

    Returns:
        str: The text.
    """
    header = ['model', 'parameters', 'in the paper', "the paper's result"]
    lines = [_row(header), _row(['---'] * len(header))]
    for entry, row in zip(models, make_rows(models), strict=True):
        name, parameters, printed, *_, accuracy = row
        if name.split(', ')[-1] == 'DMFormer-S':
            lines.append(_row([f'[{name}]({entry["Config"]})', parameters, printed, accuracy]))
    return '\n'.join(lines)


def _row(cells: list[str]) -> str:
    return f'| {" | ".join(cells)} |'


def update_readme(path: Path, table: str, check: bool) -> list[str]:
    """Put a table between the markers of a README.

    Args:
        path (Path): The README.
        table (str): The table.
        check (bool): Whether to leave the file alone and only tell whether
            the table is there.

    Returns:
        list[str]: With ``check``, a sentence if the table is not there.
    """
    text = path.read_text(encoding='utf-8')
    updated = replace_between(text, BEGIN, END, table)
    if updated == text:
        return []
    if check:
        return [f'{path} is out of date: run `python benchmarks/paper_table.py`.']
    path.write_text(updated, encoding='utf-8')
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    args = parser.parse_args()
    MMLogger.get_instance('paper-table', log_level=logging.ERROR)
    errors = []
    metafiles = read_metafiles(ROOT)
    for metafile in metafiles:
        models = read_models(metafile)
        errors += check_sizes(models, ROOT)
        print(make_text(models))
        folder = metafile.parent
        if not any(entry['Paper'] for entry in models):
            continue  # mixer_table.py writes another table of what no paper has
        table = make_markdown(models, str(folder.relative_to(ROOT)))
        errors += update_readme(folder / 'README.md', table, args.check)
    front = make_front_table(read_models(metafiles[0]))
    errors += update_readme(ROOT / 'README.md', front, args.check)
    sys.exit('\n'.join(errors) or 0)


if __name__ == '__main__':
    main()
