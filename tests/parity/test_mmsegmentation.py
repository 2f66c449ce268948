# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation itself: networks, whole and sliding inference, configs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab_infer import Segmenter, checkpoints
from deeplab_infer.configs import list_configs, load_config, reference_rows
from deeplab_infer.configs.mmseg_import import parse_mmseg_config

from .conftest import assert_close, randomise

pytestmark = pytest.mark.peer

NETWORKS = [
    "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024",
    "deeplabv3plus_r18b-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3plus_r101-d16-mg124_4xb2-40k_cityscapes-512x1024",
    "deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769",
    "deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024",
    "deeplabv3_r18-d8_4xb2-80k_cityscapes-769x769",
]
MOBILENET = "mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024"


def config_file(mmseg_models, name):
    folder = Path(mmseg_models.__file__).parents[1] / ".mim" / "configs"
    return folder / ("mobilenet_v2" if name.startswith("mobilenet") else name.partition("_")[0]) / f"{name}.py"


def build_peer(mmseg_models, name):
    from mmengine import Config
    from mmengine.model.utils import revert_sync_batchnorm

    settings = Config.fromfile(config_file(mmseg_models, name))
    model_settings = copy.deepcopy(settings.model)
    model_settings.pretrained = None
    model_settings.train_cfg = None
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    return randomise(revert_sync_batchnorm(MODELS.build(model_settings))), settings


def save_as_published(model, settings, path):
    """A file as mmsegmentation's own tools publish it."""
    from mmengine.utils import digit_version

    assert digit_version
    torch.save({"meta": {"cfg": settings.pretty_text}, "state_dict": model.state_dict()}, path)


@pytest.mark.parametrize("name", [*NETWORKS, MOBILENET])
def test_logits(mmseg_models, tmp_path, name):
    peer, settings = build_peer(mmseg_models, name)
    save_as_published(peer, settings, tmp_path / "peer.pth")
    ours = checkpoints.load(tmp_path / "peer.pth")
    x = torch.randn(2, 3, 97, 129, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert_close(name, ours(x), peer(x, mode="tensor"))


@pytest.mark.parametrize("name", [NETWORKS[0], NETWORKS[6]])
def test_labels_of_whole_and_sliding_inference(mmseg_models, tmp_path, name):
    """From uint8 pixels to labels at the original size, through both resizes."""
    peer, settings = build_peer(mmseg_models, name)
    save_as_published(peer, settings, tmp_path / "peer.pth")
    ours = checkpoints.load(tmp_path / "peer.pth")
    scale = (161, 97)
    small = {"test_scale": scale}
    if ours.config.test_mode == "slide":
        small |= {"window": (65, 65), "window_stride": (43, 43)}
        peer.test_cfg.update(crop_size=(65, 65), stride=(43, 43))
    ours = checkpoints.with_config(ours, ours.config.replace(**small))
    image = np.random.default_rng(0).integers(0, 256, (80, 140, 3), dtype=np.uint8)

    import mmcv

    resized = mmcv.imrescale(image, scale)
    config = ours.config
    x = torch.from_numpy(resized).permute(2, 0, 1)[None].float() - torch.tensor(config.mean).view(1, 3, 1, 1)
    x = x / torch.tensor(config.std).view(1, 3, 1, 1)
    meta = {"ori_shape": image.shape[:2], "img_shape": resized.shape[:2], "pad_shape": resized.shape[:2]}
    with torch.inference_mode():
        logits = peer.inference(x, [meta])
        full = torch.nn.functional.interpolate(
            logits, size=image.shape[:2], mode="bilinear", align_corners=config.align_corners
        )[0]
    result = Segmenter(ours).predict(image, probabilities=True)
    assert result.metadata["network_input"] == list(resized.shape[:2])
    assert_close(f"{name} probabilities", result.probabilities, full.softmax(0).numpy())
    top = full.topk(2, 0).values
    clear = ((top[0] - top[1]) > 1e-4 * (full.max() - full.min())).numpy()
    assert (result.labels == full.argmax(0).numpy())[clear].all()
    assert clear.mean() > 0.99


def test_every_shipped_config_is_read_and_equals_our_named_one(mmseg_models):
    folder = Path(mmseg_models.__file__).parents[1] / ".mim" / "configs"
    files = [
        *folder.glob("deeplabv3plus/*.py"),
        *folder.glob("deeplabv3/*.py"),
        *folder.glob("mobilenet_v2/*deeplab*.py"),
    ]
    assert len(files) > 90
    known = set(list_configs())
    ignored = {"checkpoint": "", "checkpoint_sha256": ""}
    for file in files:
        parsed = parse_mmseg_config(file)
        if file.stem in known:
            assert parsed == load_config(file.stem).replace(**ignored)
    assert {row.name for row in reference_rows()} <= {file.stem for file in files}


def test_published_files_of_both_eras(mmseg_models, tmp_path):
    """Training logs beside the weights do not get in the way, and run no code."""
    from mmengine.logging import HistoryBuffer

    peer, settings = build_peer(mmseg_models, NETWORKS[0])
    history = HistoryBuffer()
    history.update(0.5)
    newer = {
        "meta": {"cfg": settings.pretty_text, "dataset_meta": {"classes": ["a"] * 19, "palette": [[1, 2, 3]] * 19}},
        "state_dict": peer.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": history}, "runtime_info": {"iter": 1}},
    }
    torch.save(newer, tmp_path / "newer.pth")
    assert checkpoints.load(tmp_path / "newer.pth").config.classes == ("a",) * 19
    older = {
        "meta": {"config": settings.pretty_text, "CLASSES": ("b",) * 19, "PALETTE": [[1, 2, 3]] * 19, "iter": 1},
        "state_dict": peer.state_dict(),
    }
    torch.save(older, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    assert checkpoints.load(tmp_path / "older.pth").config.classes == ("b",) * 19
