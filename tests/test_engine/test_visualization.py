# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import cv2
import pytest
import torch

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from mmdmformer.engine.visualization import TrueColourVisualizationHook


def test_colours_stay_as_loaded(tmp_path):
    UniversalVisualizer.get_instance('colours', vis_backends=None)
    hook = TrueColourVisualizationHook(enable=True, interval=1, out_dir=str(tmp_path))
    blue = torch.zeros(3, 64, 64, dtype=torch.uint8)
    blue[0] = 255  # BGR, as cv2 loads it
    sample = DataSample(img_path='blue.png').set_pred_score(torch.tensor([0.9, 0.1]))
    hook._draw_samples(0, dict(inputs=[blue]), [sample])
    drawn = cv2.imread(str(tmp_path / 'blue.png_0.png'))
    assert drawn[-10, -10].tolist() == [255, 0, 0]
