# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Drawing predictions of images that have equal names in different folders."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData

pytest.importorskip('mmpretrain')
from mmpretrain.engine.hooks import VisualizationHook
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from mmdmformer.engine import DrawPredictionsHook


class Images(BaseDataset):
    def load_data_list(self):
        return [dict()]


def make_runner(folder, visualizer, *hooks):
    """What the hook asks of a runner whose test images are below the folder."""
    dataset = Images(data_root=str(folder), data_prefix=dict(img_path='images'))
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(visualizer=visualizer, test_dataloader=loader, hooks=hooks)


def test_pictures_have_the_folders_and_colors_of_the_images(tmp_path):
    paths = [tmp_path / 'images' / name for name in ('a/1.png', 'b/1.png')]
    for path, color in zip(paths, ([255, 0, 0], [0, 0, 255]), strict=True):  # BGR
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.full((64, 64, 3), color, np.uint8))
    runner = make_runner(tmp_path, UniversalVisualizer.get_instance('colors', vis_backends=None))
    samples = [
        DataSample(img_path=str(path)).set_pred_score(torch.tensor([0.9, 0.1])) for path in paths
    ]
    DrawPredictionsHook(str(tmp_path / 'out')).after_test_iter(runner, 0, None, samples)
    drawn = [cv2.imread(str(tmp_path / 'out' / name)) for name in ('a/1.png', 'b/1.png')]
    assert [image[-10, -10].tolist() for image in drawn] == [[255, 0, 0], [0, 0, 255]]


def test_interval_counts_images_over_batches(tmp_path):
    """Of whatever sizes the batches are, and from the first image in each test."""
    runner = make_runner(tmp_path, UniversalVisualizer.get_instance('counted', vis_backends=None))
    path = tmp_path / 'images'
    path.mkdir()
    samples = []
    for i in range(10):
        cv2.imwrite(str(path / f'{i}.png'), np.zeros((64, 64, 3), np.uint8))
        sample = DataSample(img_path=str(path / f'{i}.png'))
        samples.append(sample.set_pred_score(torch.tensor([0.9, 0.1])))
    hook = DrawPredictionsHook(str(tmp_path / 'out'), interval=4)
    for _ in range(2):
        hook.before_test(runner)
        for batch in (samples[:3], samples[3:5], samples[5:9], samples[9:]):
            hook.after_test_iter(runner, 0, None, batch)
        assert {file.name for file in (tmp_path / 'out').iterdir()} == {'0.png', '4.png', '8.png'}
    with pytest.raises(ValueError, match='interval must be at least 1, but is 0'):
        DrawPredictionsHook('out', interval=0)


def draw(folder, visualizer, sample, *hooks):
    """Draw one sample of a white image, and read the drawing."""
    path = folder / 'images/1.png'
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((64, 64, 3), 255, np.uint8))
    sample.set_metainfo(dict(img_path=str(path)))
    runner = make_runner(folder, visualizer, *hooks)
    DrawPredictionsHook(str(folder / 'out')).after_test_iter(runner, 0, None, [sample])
    return cv2.imread(str(folder / 'out/1.png'))


def test_settings_of_mmpretrains_hook_count(tmp_path):
    visualizer = UniversalVisualizer.get_instance('scaled', vis_backends=None)
    sample = DataSample().set_pred_score(torch.tensor([0.9, 0.1]))
    drawn = draw(tmp_path, visualizer, sample, VisualizationHook(rescale_factor=2))
    assert drawn.shape == (128, 128, 3)


@pytest.mark.parametrize('threshold, drawn', [(0.3, True), (0.5, False)])
def test_threshold_of_mmdets_hook_counts(threshold, drawn, tmp_path):
    mmdet = pytest.importorskip('mmdet')
    from mmdet.engine.hooks import DetVisualizationHook
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer.get_instance('threshold', vis_backends=None)
    found = InstanceData(bboxes=torch.tensor([[8.0, 8.0, 50.0, 50.0]]))
    found.labels, found.scores = torch.tensor([0]), torch.tensor([0.4])
    sample = mmdet.structures.DetDataSample(pred_instances=found)
    image = draw(tmp_path, visualizer, sample, DetVisualizationHook(score_thr=threshold))
    assert (image != 255).any() == drawn
