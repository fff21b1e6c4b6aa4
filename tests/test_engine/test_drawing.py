# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Drawing predictions of images that have equal names in different folders."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from mmdmformer.engine import DrawPredictionsHook


class Images(BaseDataset):
    def load_data_list(self):
        return [dict()]


def test_pictures_have_the_folders_and_colors_of_the_images(tmp_path):
    paths = [tmp_path / 'images' / name for name in ('a/1.png', 'b/1.png')]
    for path, color in zip(paths, ([255, 0, 0], [0, 0, 255]), strict=True):  # BGR
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((64, 64, 3), color, np.uint8))
    runner = type('Runner', (), {})
    runner.visualizer = UniversalVisualizer.get_instance('colors', vis_backends=None)
    runner.test_dataloader = type('Loader', (), {})
    runner.test_dataloader.dataset = Images(
        data_root=str(tmp_path), data_prefix=dict(img_path='images')
    )
    samples = [
        DataSample(img_path=str(path)).set_pred_score(torch.tensor([0.9, 0.1])) for path in paths
    ]
    DrawPredictionsHook(str(tmp_path / 'out')).after_test_iter(runner, 0, None, samples)
    drawn = [cv2.imread(str(tmp_path / 'out' / name)) for name in ('a/1.png', 'b/1.png')]
    assert [image[-10, -10].tolist() for image in drawn] == [[255, 0, 0], [0, 0, 255]]
