# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""From pictures to the answer of an exported network, whatever runs it."""

import argparse
import json
from functools import reduce

import cv2
import numpy as np
from PIL import Image


def transform(image, step):  # of the test pipeline
    (h, w), size, name = image.shape[:2], step.get('scale'), step.get('interpolation')
    if step['type'] == 'CenterCrop':
        x, y = (max(0, round((a - b) / 2)) for a, b in zip((w, h), step['crop_size'], strict=True))
        return image[y : y + step['crop_size'][1], x : x + step['crop_size'][0]]
    if step['type'] == 'ResizeEdge':
        fixed = dict(short=min(w, h), long=max(w, h), width=w, height=h)[step['edge']]
        size = [size * side // fixed for side in (w, h)]
    elif step['type'] == 'ResizeToMultiple':
        size = [-(-side // step['size_divisor']) * step['size_divisor'] for side in (w, h)]
    elif step['keep_ratio']:
        size = [int(s * min(max(size) / max(w, h), min(size) / min(w, h)) + 0.5) for s in (w, h)]
    if step['backend'] == 'pillow':
        return np.array(Image.fromarray(image).resize(size, Image.Resampling[name.upper()]))
    return cv2.resize(image, size, interpolation=dict(nearest=0, bilinear=1, bicubic=2)[name])


def predict(about, run, files):  # boxes, scores and labels; scores of classes; or labels of pixels
    (load, *steps), padding = json.loads(about['pipeline']), json.loads(about['padding'])
    if len(files) > 1 and not padding['several_sizes']:
        return [predict(about, run, [file])[0] for file in files]
    photos = [cv2.imread(f, dict(color=1, grayscale=0).get(load['color_type'], -1)) for f in files]
    images = [np.atleast_3d(reduce(transform, steps, photo)) for photo in photos]
    sizes, old = ([array.shape[:2] for array in arrays] for arrays in (images, photos))
    batch = np.tile(np.float32(padding['value']), (len(files), *np.max(sizes, 0), 1))
    for filled, image, (h, w) in zip(batch, images, sizes, strict=True):
        filled[:h, :w] = image[..., ::-1] if about['color_order'] == 'RGB' else image
    feeds = dict(images=batch.transpose(0, 3, 1, 2), sizes=np.array(sizes))
    outputs = run({name: feeds[name] for name in json.loads(about['inputs'])})
    if about['task'] == 'classification':
        return [e / (1 + e if about['scores'] == 'sigmoid' else sum(e)) for e in np.exp(outputs[0])]
    if about['task'] == 'segmentation':
        logits = np.array([cv2.resize(one, old[0][::-1]) for one in outputs[0][0]])
        return [logits.argmax(0) if len(logits) > 1 else logits[0] > float(about['threshold'])]
    *found, owners = outputs
    found[0] = found[0] / np.tile(np.divide(sizes, old)[owners, ::-1], 2)
    return [[part[owners == i] for part in found] for i in range(len(files))]


def main(read):
    parser = argparse.ArgumentParser(description='What an exported file predicts for pictures.')
    parser.add_argument('files', nargs='+', help='the exported file, and pictures after it')
    file, *pictures = parser.parse_args().files
    about, run = read(file)
    print(about.get('classes'), *predict(about, run, pictures), sep='\n')
