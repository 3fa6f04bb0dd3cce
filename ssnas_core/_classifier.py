"""A trained classifier as one thing: raw inputs in, probabilities out, saved and loaded whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn

from ssnas_core import _model_folder as folders
from ssnas_core._model_inputs import as_tensor, checked_rows
from ssnas_core._model_spec import ClassifierSpec
from ssnas_core._shapes import check_shapes
from ssnas_core._typed import plain
from ssnas_core.backbones import Backbone
from ssnas_core.baselines import LateConcat
from ssnas_core.cards import ModelFacts, model_card
from ssnas_core.errors import InputError, one_line
from ssnas_core.features.extract import pooled
from ssnas_core.files import save_tensors, write_json, write_text
from ssnas_core.modalities import modality_of


class MultimodalClassifier(nn.Module, PyTorchModelHubMixin):
    """Backbones, fusion network and linear head of one trained method.

    `classifier_of` makes it from a run, `from_pretrained` from a folder.

    Args:
        spec: what it is.
        backbones: of each modality that is read; others are left out.
        facts: what its run recorded, for the model card.

    Raises:
        InputError: backbones that do not fit `spec`, or a genotype outside of its space.
    """

    def __init__(
        self,
        spec: ClassifierSpec,
        backbones: Mapping[str, Backbone],
        facts: ModelFacts | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.facts = facts
        kept = {name: backbones[name] for name in spec.modalities if name in backbones}
        found = {
            f"{name}_{tap}": channels
            for name, backbone in kept.items()
            for tap, channels in backbone.channels.items()
        }
        wanted = {n: c for n, c in spec.channels.items() if modality_of(n) in spec.modalities}
        kinds = {name: backbone.modality_kind for name, backbone in kept.items()}
        if found != wanted or any(spec.kinds[name] != kind for name, kind in kinds.items()):
            raise InputError(
                f"expected backbones with the features {wanted}, got {found} of {kinds}; "
                "give those that the features were made by."
            )
        self.backbones = nn.ModuleDict(kept)
        self.network: nn.Module
        if spec.genotype is not None:
            self.network = spec.space.build(spec.genotype)
        else:
            read = {name: spec.channels[name] for name in spec.features}
            self.network = LateConcat(read, spec.fusion, spec.positions)
        self.head = nn.Linear(self.network.width, len(spec.classes))
        self.missing = nn.Module()  # feature -> (P, C): what stands for one that is not given
        for name, channels in wanted.items():
            self.missing.register_buffer(name, torch.zeros(spec.positions[name], channels))
        self.eval()

    @property
    def kinds(self) -> dict[str, str]:
        """Modality -> kind, of all modalities of the data set."""
        return dict(self.spec.kinds)

    @property
    def threshold(self) -> float | None:
        """A label is predicted where its probability is larger; None for single labels."""
        return self.spec.threshold

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (N, K) of features "<modality>_<tap>", (N, P, C) each."""
        return self.head(self.network(features))

    def probabilities(self, features: Mapping[str, Tensor]) -> Tensor:
        """Probabilities (N, K) float32 of features, on their device.

        Raises:
            InputError: they are not finite.
        """
        logits = self(features).float()
        if not bool(logits.isfinite().all()):
            raise InputError(
                "the model's outputs are NaN or infinite; look for NaN in the inputs, or in the "
                "weights."
            )
        return logits.softmax(1) if self.spec.single_label else logits.sigmoid()

    def without(self, features: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
        """`features` as if `modality` had not been given."""
        return {
            name: self.missing.get_buffer(name).expand_as(value)
            if modality_of(name) == modality and modality in self.spec.modalities
            else value
            for name, value in features.items()
        }

    @overload
    def predict(self, inputs: Mapping[str, Any], *, batch_size: int = 32) -> dict[str, float]: ...

    @overload
    def predict(
        self, inputs: Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> list[dict[str, float]]: ...

    def predict(
        self, inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> dict[str, float] | list[dict[str, float]]:
        """Probabilities of raw inputs; the model is left in eval mode.

        Args:
            inputs: modality -> value of one sample, or several of these. An image is
                the path of its file, a PIL image or uint8 (3, H, W) RGB; a text is a
                str; an array has the shape of the data's. A modality may be left out,
                or None.
            batch_size: samples at once; does not change the result but by rounding.

        Returns:
            class -> probability, the largest first; a list of these where `inputs`
            are several.

        Raises:
            InputError: an unknown modality, a value of another kind, nothing given
                that the model reads, or an image that cannot be decoded.
        """
        single = isinstance(inputs, Mapping)
        found = []
        for features in self._batches(inputs, batch_size):
            with torch.inference_mode():
                rows = self.probabilities(features).cpu().tolist()
            pairs = (sorted(zip(self.spec.classes, row, strict=True), key=_last) for row in rows)
            found += [dict(row) for row in pairs]
        return found[0] if single else found

    def embed(
        self, inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, batch_size: int = 32
    ) -> Tensor:
        """Embeddings (N, D) float32 of raw inputs as in `predict`, on the CPU.

        They are what the head sees: the output of the fusion network.
        """
        parts = [torch.zeros(0, self.head.in_features)]
        for features in self._batches(inputs, batch_size):
            with torch.inference_mode():
                parts.append(self.network(features).float().cpu())
        return torch.cat(parts)

    def encode(self, modality: str, tensor: Tensor) -> dict[str, Tensor]:
        """Features of what a modality's backbone takes: "<modality>_<tap>" -> (n, P, C)."""
        taps = self.backbones[modality](tensor.to(self.head.weight.device))
        return {f"{modality}_{tap}": pooled(taps[tap], self.spec.length) for tap in taps}

    def _batches(self, inputs: Any, size: int) -> Iterator[dict[str, Tensor]]:
        """Features of raw inputs, batch by batch, in eval mode."""
        if size < 1:
            raise InputError(f"batch_size must be >= 1, got {size}.")
        rows = checked_rows(inputs, self.spec)
        self.eval()
        for start in range(0, len(rows), size):
            with torch.inference_mode():
                features = self._features(rows[start : start + size])
            yield features

    def _features(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        features = {
            name: mean.expand(len(rows), -1, -1).clone()
            for name, mean in self.missing.named_buffers()
        }
        for modality in self.spec.modalities:
            given = [i for i, row in enumerate(rows) if row.get(modality) is not None]
            if given:
                values = [rows[i][modality] for i in given]
                tensor = as_tensor(modality, values, self.spec, self.backbones[modality])
                for name, value in self.encode(modality, tensor).items():
                    features[name][given] = value
        return features

    def card(self) -> str:
        """The model card, Markdown; it is the README.md of a saved model."""
        parts = {name: str(part.name) for name, part in self.backbones.items()}
        return model_card(self.spec, parts, self.facts)

    def save_pretrained(  # the mixin's would delete a config.json of something else
        self,
        save_directory: str | Path,
        *,
        config: None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Save everything to a folder; it is there whole, or as it was before.

        Args:
            save_directory: a new or empty folder, or one that holds a saved model alone.
            config, model_card_kwargs: of the mixin; must be None.
            repo_id: name on the hub, where pushed; the folder's name if not given.
            push_to_hub: upload it as well.
            push_to_hub_kwargs: for `push_to_hub`.

        Returns:
            The commit's address, where pushed.

        Raises:
            InputError: the folder holds something else.
        """
        if config is not None or model_card_kwargs or (push_to_hub_kwargs and not push_to_hub):
            raise InputError(
                "a classifier writes its own config and card; give only a folder, and "
                "push_to_hub=True with its options."
            )
        target = Path(save_directory)
        with folders.whole_folder(target) as folder:
            self._save_pretrained(folder)
        if push_to_hub:
            return self.push_to_hub(repo_id or target.name, **push_to_hub_kwargs)
        return None

    def _save_pretrained(self, save_directory: Path) -> None:
        for modality, backbone in self.backbones.items():
            home = save_directory / folders.BACKBONES / modality
            home.mkdir(parents=True)
            backbone.save_files(home)  # type: ignore[operator]
            for folder in (home, home.parent):
                if not any(folder.iterdir()):
                    folder.rmdir()
        seen: set[int] = set()
        state = {}
        for name, value in self.state_dict().items():
            shared = value.data_ptr() in seen  # safetensors refuses tied weights
            seen.add(value.data_ptr())
            state[name] = value.clone() if shared else value
        save_tensors(save_directory / folders.WEIGHTS, state)
        write_text(save_directory / folders.CARD, self.card())
        parts: dict[str, Any] = dict(self.backbones.items())  # what a ModuleDict holds is not typed
        told = {
            "kind": folders.KIND,
            "format": folders.FORMAT,
            "spec": plain(self.spec),
            "backbones": {name: part.config() for name, part in parts.items()},
            "facts": plain(self.facts),
        }
        write_json(save_directory / folders.CONFIG, told)

    @classmethod
    def from_pretrained(  # the mixin's reads config.json before it can be checked
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> MultimodalClassifier:
        """Load what `save_pretrained` wrote, in eval mode on the CPU.

        Args:
            pretrained_model_name_or_path: a folder; else the name of a model on the hub,
                "user/model". A `Path` is only ever a folder.
            force_download, token, cache_dir, local_files_only, revision: as
                `huggingface_hub.snapshot_download` takes them.

        Raises:
            InputError: neither a folder nor to be had from the hub; or a model of another
                version, with missing, broken or wrong parts. Nothing in it is executed.
        """
        name = pretrained_model_name_or_path
        if Path(name).is_dir():
            return cls._load(Path(name))
        if isinstance(name, Path):
            raise InputError(f"{name} is not a folder; save a model there first.")
        return cls._from_pretrained(
            model_id=name,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> MultimodalClassifier:
        patterns = [folders.CONFIG, folders.WEIGHTS, f"{folders.BACKBONES}/*"]
        try:
            folder = snapshot_download(model_id, allow_patterns=patterns, **options)
        except Exception as error:  # no such name, no network, no right: many kinds, long advice
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"{model_id!r} is neither a folder nor a model to be had from the hub "
                f"({type(error).__name__}: {reason}); give the folder of a saved model."
            ) from error
        return cls._load(Path(folder))

    @classmethod
    def _load(cls, folder: Path) -> MultimodalClassifier:
        spec, backbones, facts, weights = folders.read_model(folder)
        try:
            check_shapes(lambda: cls(spec, backbones), weights)
            model = cls(spec, backbones, facts)
        except InputError as error:
            if "size mismatch" in str(error):
                raise folders.unfit(folder, str(error)) from error
            raise InputError(f"{folder}: {error}") from error
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split("\n\t")[1:2])
            raise folders.unfit(folder, one_line(reason)) from error
        return model.eval()


def _last(pair: tuple[str, float]) -> float:
    return -pair[1]
