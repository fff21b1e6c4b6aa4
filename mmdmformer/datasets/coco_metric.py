# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""COCO's average precision with any limit of detections. Imported only with mmdet."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.dataset import BaseDataset
from mmengine.fileio import get_local_path, load
from mmengine.logging import print_log
from terminaltables import AsciiTable

from .annotations import CROWD, NO_MASK
from .bad_input import BadInputError
from .coco import CheckedCOCO
from .instances import describe, find_cause

_AREAS = dict(all=0, s=1, m=2, l=3)  # of pycocotools' arrays
_IOUS = {'mAP_50': 0.5, 'mAP_75': 0.75}


class CocoMetric(MMDetCocoMetric):
    """mmdet's metric, with every number at the limit of detections that it says.

    It replaces what mmdet 3.3's CocoMetric does with pycocotools 2.0 in these cases; any other
    number is the same:

    - AP is that of 100 detections an image and class whatever ``proposal_nums`` says, or -1 where
      100 is none of them, and AP50 that of the last of them. Here all are of the largest.
    - The object whose id is 0 is never found, and ids that are text end in an error. Here objects
      are numbered for the evaluation.
    - With ``classwise``, the values stand beside other classes' names where the categories of the
      file are not sorted by their ids. Here each stands beside its own.
    - Without any detection there is no value at all. Here it is 0.
    - AR is called ``AR@100``, ``AR@300`` and ``AR@1000`` whatever ``proposal_nums`` says.

    The annotation file is read as :class:`~mmdmformer.datasets.coco.CheckedCOCO` does.

    In a config: ``type='mmdmformer.datasets.coco_metric.CocoMetric'``, which needs no import.

    Args:
        proposal_nums (Sequence[int]): Detections an image and class that AR counts, sorted. AP
            counts the largest. Defaults to COCO's own, ``(1, 10, 100)``.
        **kwargs: Of mmdet's ``CocoMetric``.

    Raises:
        BadInputError: If the annotation file cannot be used.
        ValueError: If a name in ``metric`` or ``metric_items`` is none of this metric's.
    """

    def __init__(self, *, proposal_nums: Sequence[int] = (1, 10, 100), **kwargs: Any) -> None:
        ann_file, sort = kwargs.pop('ann_file', None), kwargs.pop('sort_categories', False)
        super().__init__(proposal_nums=sorted(proposal_nums), **kwargs)
        if 'proposal_fast' in self.metrics:
            raise ValueError(
                "metric='proposal_fast' of CocoMetric fails in mmdet 3.3 with numpy 1.24 or "
                "newer: take 'proposal'."
            )
        self.limit = self.proposal_nums[-1]
        self.iou_thrs: np.ndarray = np.atleast_1d(self.iou_thrs)
        names = self._names(ap=True) + self._names(ap=False)
        if unknown := set(self.metric_items or ()) - set(names):
            raise ValueError(
                f'metric_items of CocoMetric holds {min(unknown)}, and with proposal_nums='
                f'{self.proposal_nums} there are {", ".join(names)}.'
            )
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._coco_api = _read(path, ann_file, sort, 'segm' in self.metrics)

    @property
    def dataset_meta(self) -> dict | None:
        """The data set's, whose classes are looked up in the annotation file when it is set."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        self._dataset_meta = meta
        if self._coco_api is not None and 'classes' in meta:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=meta['classes'])
            _tell_limit(self, self.limit)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the numbers.

        Args:
            results (list): Ground truth and prediction of each image, as ``process`` left them.

        Returns:
            dict[str, float]: mmdet's names and values, rounded to three digits as mmdet's.
        """
        truths, predictions = zip(*results, strict=True)
        with TemporaryDirectory() as folder:
            prefix = self.outfile_prefix or f'{folder}/results'
            if self._coco_api is None:
                self._coco_api = COCO(self.gt_to_coco_json(truths, prefix))
                self.dataset_meta = self._dataset_meta
            self.img_ids = self._coco_api.get_img_ids()
            files = self.results2json(predictions, prefix)
            if self.format_only:
                print_log(f'results are saved in {Path(prefix).parent}', 'current')
                return {}
            numbers: dict[str, float] = {}
            for metric in self.metrics:
                if metric not in files:
                    raise KeyError(f'{metric} is not in results')
                numbers |= self._evaluate(metric, load(files[metric]))
        return numbers

    def _evaluate(self, metric: str, detections: list[dict]) -> dict[str, float]:
        kind = 'bbox' if metric == 'proposal' else metric
        if kind == 'segm':
            for detection in detections:  # whose area would be that of the box otherwise
                del detection['bbox']
        evaluation = (COCOevalMP if self.use_mp_eval else COCOeval)(
            self._coco_api, self._load(detections), kind
        )
        params = evaluation.params
        params.catIds, params.imgIds, params.iouThrs = self.cat_ids, self.img_ids, self.iou_thrs
        params.maxDets, params.useCats = list(self.proposal_nums), int(metric != 'proposal')
        evaluation.evaluate()
        evaluation.accumulate()
        precision, recall = evaluation.eval['precision'], evaluation.eval['recall']
        names = self.metric_items or self._names(ap=metric != 'proposal')
        values = {name: self._number(name, precision, recall) for name in names}
        print_log(
            f'{metric} at {self.limit} detections an image and class: '
            + ', '.join(f'{name} {value:.3f}' for name, value in values.items()),
            'current',
        )
        if metric == 'proposal':
            return values
        numbers = {f'{metric}_{name}': value for name, value in values.items()}
        return (self._classwise(precision) if self.classwise else {}) | numbers

    def _load(self, detections: list[dict]) -> COCO:
        if detections:
            return self._coco_api.loadRes(detections)
        nothing = COCO()
        nothing.dataset = dict(self._coco_api.dataset, annotations=[])
        nothing.createIndex()
        return nothing

    def _names(self, ap: bool) -> list[str]:
        if ap:
            return ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
        sizes = [f'AR_{size}@{self.limit}' for size in 'sml']
        return [*(f'AR@{number}' for number in self.proposal_nums), *sizes]

    def _number(self, name: str, precision: np.ndarray, recall: np.ndarray) -> float:
        """One of the numbers, from pycocotools' arrays (IoU, [recall], class, area, limit)."""
        kind, _, number = name.partition('@')
        area = _AREAS.get(kind.rpartition('_')[2], 0)
        if number:
            values = recall[:, :, area, self.proposal_nums.index(int(number))]
        else:
            values = precision[:, :, :, area, -1]
        if name in _IOUS:
            values = values[np.isclose(self.iou_thrs, _IOUS[name])]
        values = values[values > -1]
        return round(float(values.mean()), 3) if values.size else -1.0

    def _classwise(self, precision: np.ndarray) -> dict[str, float]:
        """The numbers of each class; pycocotools sorts the classes by their ids."""
        names = self._names(ap=True)
        rows = {}
        for place, category in enumerate(sorted(self.cat_ids)):
            part = precision[:, :, [place]]
            numbers = (self._number(name, part, part) for name in names)
            rows[category] = [float('nan') if number < 0 else number for number in numbers]
        named = [(self._coco_api.cats[key]['name'], *rows[key]) for key in self.cat_ids]
        print_log('\n' + AsciiTable([['category', *names], *named]).table, 'current')
        return {f'{name}_precision': number for name, number, *_ in named}


def check_metric(metric: Any, datasets: Sequence[BaseDataset]) -> None:
    """Refuse a metric of mmdet's that will be wrong, or end in an error, after the first epoch.

    Args:
        metric (Any): Of any class.
        datasets (Sequence[BaseDataset]): Of its loop.

    Raises:
        BadInputError: If it lacks an image of the data sets, or if mmdet's own CocoMetric cannot
            count its objects.
    """
    truth = getattr(metric, '_coco_api', None)
    if not isinstance(metric, MMDetCocoMetric) or truth is None or metric.format_only:
        return
    for dataset in datasets:
        for info in map(dataset.get_data_info, range(len(dataset))):
            if info.get('img_id') not in truth.imgs:
                raise BadInputError(
                    f'{info.get("img_path")} (id {info.get("img_id")}) of {dataset.ann_file} is '
                    "not in the ann_file of the evaluator: give it the data set's."
                )
    if isinstance(metric, CocoMetric):
        return
    categories = [category['id'] for category in truth.dataset['categories']]
    annotations = truth.dataset.get('annotations', ())
    faults = {
        'an object whose id is 0 or text cannot be found': lambda: any(
            found['id'] == 0 or isinstance(found['id'], str) for found in annotations
        ),
        'objects lack iscrowd or area': lambda: any(
            not {'iscrowd', 'area'} <= found.keys() for found in annotations
        ),
        'objects lack a mask': lambda: (
            'segm' in metric.metrics
            and any(find_cause(found, True) == NO_MASK for found in annotations)
        ),
        "classwise shows other classes' numbers, as categories are not sorted by id": lambda: (
            metric.classwise and categories != sorted(categories)
        ),
        'AP is -1, as 100 is not among proposal_nums': lambda: 100 not in metric.proposal_nums,
    }
    for fault, holds in faults.items():
        if holds():
            raise BadInputError(
                f"the numbers of mmdet's CocoMetric will be wrong or missing ({fault}): name "
                f"type='{__name__}.CocoMetric' in the evaluator."
            )
    _tell_limit(metric, 100)


def _tell_limit(metric: MMDetCocoMetric, limit: int) -> None:
    """Warn if an image has more objects of a class than are counted."""
    truth, categories = metric._coco_api, set(metric.cat_ids or metric._coco_api.cats)
    count = Counter(
        (annotation['image_id'], annotation['category_id'])
        for annotation in truth.dataset.get('annotations', ())
        if annotation['category_id'] in categories and not annotation['iscrowd']
    )
    (image, category), most = max(count.items(), key=lambda item: item[1], default=((0, 0), 0))
    if most > limit:
        print_log(
            f'{truth.imgs[image]["file_name"]} holds {most} objects of class '
            f'{truth.cats[category]["name"]}, and AP counts {limit} detections an image and class: '
            f"name type='{__name__}.CocoMetric' with proposal_nums=(1, 10, {most}) as evaluator, "
            'and no smaller max_per_img in test_cfg of the model.',
            'current',
            logging.WARNING,
        )


def _read(path: str, name: str, sort_categories: bool, with_mask: bool) -> CheckedCOCO:
    """The ground truth of an evaluation, its objects numbered from 1."""
    truth = CheckedCOCO(path, name)
    content = truth.dataset
    if sort_categories:
        content['categories'].sort(key=lambda category: category['id'])
    kept: list[dict] = []
    for annotation in content.get('annotations', ()):
        cause = find_cause(annotation, with_mask)
        if cause is not None:
            truth.left_out.add(cause, describe(annotation, truth.imgs[annotation['image_id']]))
        if cause in (None, CROWD):
            kept.append(annotation | dict(id=len(kept) + 1))
    truth.left_out.report()
    if 'annotations' in content:
        content['annotations'] = kept
    COCO.createIndex(truth)
    return truth
