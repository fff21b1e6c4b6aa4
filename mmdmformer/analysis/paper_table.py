# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The papers' printed sizes and results beside the sizes of the models that the configs build."""

from pathlib import Path

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from torch import nn

from ..engine.model import build_model

UNITS = {'M': 1e6, 'G': 1e9}
ACCURACIES = ('Top-1', 'Box AP', 'Mask AP', 'mIoU')
NOT_TRAINED = (
    "Accuracies are the paper's: no network was trained on ImageNet, COCO or ADE20K here. "
    'Sizes are computed from the configs; FLOPs are multiply-adds at 224x224 pixels.'
)


def compute_metadata(entry: dict, root: Path) -> dict[str, int]:
    """Count what a metafile entry's ``Metadata`` holds.

    Args:
        entry (dict): An entry of ``Models`` in a metafile.
        root (Path): Folder to which ``Config`` is relative.

    Returns:
        dict[str, int]: ``Parameters`` and, for classifiers, ``FLOPs``
        (multiply-adds at 224x224 pixels, by :mod:`mmengine.analysis`).
    """
    cfg = Config.fromfile(root / entry['Config'])
    cfg.model.backbone.update(entry.get('Backbone', {}))
    model = build_model(cfg).eval()
    counted = {'Parameters': sum(p.numel() for p in model.parameters())}
    if 'FLOPs' in entry['Metadata']:
        counted['FLOPs'] = _count_multiply_adds(model)
    return counted


class _ImageToScores(nn.Module):
    """A classifier without its data preprocessor, which only normalises the images."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier.head(self.classifier.extract_feat(image))


def _count_multiply_adds(classifier: nn.Module) -> int:
    network = _ImageToScores(classifier)
    info = get_model_complexity_info(network, (3, 224, 224), show_table=False, show_arch=False)
    return int(info['flops'])


def agrees(printed: str, exact: int) -> bool:
    """Tell whether a printed size is the exact one, rounded.

    Args:
        printed (str): Such as ``'26.7 M'``.
        exact (int): Such as 26660392.

    Returns:
        bool: Whether they agree to the printed digits.

    Examples:
        >>> agrees('26.7 M', 26660392), agrees('54.8 M', 54720436)
        (True, False)
    """
    return printed == format_like(printed, exact)


def format_like(printed: str, exact: int) -> str:
    """Round a number to the digits and the unit of a printed one."""
    number, unit = printed.split()
    return f'{exact / UNITS[unit]:.{len(number.split(".")[1])}f} {unit}'


def make_table(metafile: dict) -> str:
    """Make a Markdown table of printed and exact sizes, and of printed accuracies.

    Cells that do not agree are bold and have a footnote.

    Args:
        metafile (dict): Content of a ``metafile.yml``.

    Returns:
        str: The table, its notes, and the statement of what was not trained.
    """
    header = ['model', 'parameters (paper)', 'FLOPs (paper)', 'accuracy (paper)']
    lines = [_row(header), _row(['---'] * len(header))]
    notes = []
    for entry in metafile['Models']:
        mark = ''
        if 'Note' in entry:
            notes.append(entry['Note'].strip())
            mark = f' [{len(notes)}]'
        accuracy = ', '.join(f'{k} {v}' for k, v in entry['Paper'].items() if k in ACCURACIES)
        sizes = [_size_cell(entry, key, mark) for key in ('Parameters', 'FLOPs')]
        lines.append(_row([entry['Name'], *sizes, accuracy]))
    footnotes = [f'[{i}] {note}' for i, note in enumerate(notes, 1)]
    return '\n\n'.join(['\n'.join(lines), NOT_TRAINED, *footnotes])


def _row(cells: list[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _size_cell(entry: dict, key: str, mark: str) -> str:
    if key not in entry['Metadata']:
        return ''
    exact = entry['Metadata'][key]
    printed = entry['Paper'][key]
    shown = f'{exact:,}' if key == 'Parameters' else f'{exact / 1e9:.3f} G'
    return f'{shown} ({printed})' if agrees(printed, exact) else f'{shown} (**{printed}**{mark})'


def replace_table(text: str, table: str) -> str:
    """Put a table between the markers of a Markdown text.

    Args:
        text (str): Text with the lines ``<!-- paper table -->`` and
            ``<!-- end of paper table -->``.
        table (str): The table.

    Returns:
        str: The text with the table in place of what stood between.

    Raises:
        ValueError: If a marker is missing.
    """
    start, end = '<!-- paper table -->', '<!-- end of paper table -->'
    if start not in text or end not in text:
        raise ValueError(f'the text needs the lines {start} and {end} around the table.')
    before, rest = text.split(start, 1)
    return f'{before}{start}\n\n{table}\n\n{end}{rest.split(end, 1)[1]}'
