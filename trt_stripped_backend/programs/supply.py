"""Where a program's weights come from: a live module, a ``state_dict``, or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import RefitFailed, TRTStrippedError
from .calling import Calling, Source, as_exported, matched

Weights = nn.Module | Mapping[str, torch.Tensor] | str | Path


class Supply(Protocol):
    """Hands out the tensors of a program's sources at each call."""

    def tensors(self) -> list[torch.Tensor]:
        """One for each source, in order."""


def device_of(weights: Weights, wanted: torch.device | str | int | None) -> torch.device:
    """Where a program with these weights runs: the module's device, or a GPU.

    Raises:
        RefitFailed: there is no GPU, or the module is not on it.
    """
    if not torch.cuda.is_available():
        raise RefitFailed("no CUDA device is available: a program can be exported without one, but not run")
    held = [*weights.parameters(), *weights.buffers()] if isinstance(weights, nn.Module) else []
    own = next((t.device for t in held if t.device.type == "cuda"), held[0].device if held else None)
    device = own if own is not None and wanted is None else torch.device("cuda" if wanted is None else wanted)
    if device.type != "cuda":
        raise RefitFailed(
            f"the program would run on {device}, and needs a CUDA device: move the module there, or give its "
            "state_dict(), whose tensors are moved"
        )
    if str(device) == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    if own is not None and own != device:
        raise RefitFailed(
            f"the module is on {own}, and the program would run on {device}: move the module there, or give its "
            "state_dict(), whose tensors are moved"
        )
    return device


def supply(weights: object, calling: Calling, held: Mapping[str, torch.Tensor], device: torch.device) -> Supply:
    """The supply that weights are.

    Args:
        weights: a module, a ``state_dict``, or a path.
        calling: says which weights the program has.
        held: values that the program brings along.
        device: where the program runs.

    Raises:
        RefitFailed: names all that is missing, unexpected, or of another shape, dtype or device.
    """
    if isinstance(weights, nn.Module):
        return _Live(getattr(weights, "_orig_mod", weights), calling, held, device)
    if isinstance(weights, Mapping):
        return _Fixed(weights, calling, held, device)
    if isinstance(weights, (str, Path)):
        return _Fixed(_read(Path(weights), calling, device), calling, held, device)
    raise RefitFailed(f"weights are a module, a state_dict or a path, not a {type(weights).__name__}")


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a module by all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))
    }  # fmt: skip


def _place(source: Source, device: torch.device) -> torch.device:
    return device if source.elsewhere is None else torch.device(source.elsewhere)


class _Fixed:
    """Tensors of a ``state_dict``, moved once. What the program writes to is copied: each callable has its own."""

    def __init__(
        self, given: Mapping[str, Any], calling: Calling, held: Mapping[str, torch.Tensor], device: torch.device
    ) -> None:
        found = matched(calling, given, held, strict=True)
        self._tensors = [
            as_exported(value.detach().to(_place(source, device), copy=source.written), source.spec)
            for source, value in zip(calling.sources, found, strict=True)
        ]

    def tensors(self) -> list[torch.Tensor]:
        return list(self._tensors)


class _Live:
    """The parameters and buffers that a module has at the time of a call, whatever replaced them since the last."""

    def __init__(
        self, module: nn.Module, calling: Calling, held: Mapping[str, torch.Tensor], device: torch.device
    ) -> None:
        own = tensors_of(module)
        found = matched(calling, own, held, strict=False)
        wrong = [
            f"{source.name} is on {value.device}; the program takes it on {_place(source, device)}"
            for source, value in zip(calling.sources, found, strict=True)
            if source.name not in held and value.device != _place(source, device)
        ]
        if wrong:
            raise RefitFailed("these weights are not where the program runs:\n  " + "\n  ".join(wrong))
        self._module = module
        self._steps: list[tuple[int, str]] = []
        self._places: dict[str, int] = {"": 0}
        self._where: list[tuple[int, str, torch.Tensor | None]] = []
        self._tied: list[tuple[int, int, str, str]] = []
        for index, (source, value) in enumerate(zip(calling.sources, found, strict=True)):
            names = [name for name in source.names if name in own]
            if not names:  # a buffer that the program brought along
                self._where.append((0, "", value.to(_place(source, device))))
                continue
            self._where.append((*self._place(names[0]), None))
            self._tied += [(index, *self._place(name), name) for name in names[1:]]
        self.tensors()

    def _place(self, name: str) -> tuple[int, str]:
        """The position of a tensor's module among those of a walk, and the tensor's name in it."""
        path, _, own = name.rpartition(".")
        if path not in self._places:
            self._steps.append(self._place(path))
            self._places[path] = len(self._steps)
        return self._places[path], own

    def tensors(self) -> list[torch.Tensor]:
        modules: list[Any] = [self._module]
        try:
            for parent, name in self._steps:
                modules.append(modules[parent]._modules[name])
            found = [getattr(modules[i], name) if fixed is None else fixed for i, name, fixed in self._where]
            for index, place, own, name in self._tied:
                if getattr(modules[place], own) is not found[index]:
                    raise RefitFailed(f"{name} was tied to another weight when the program was exported: export again")
        except (KeyError, AttributeError) as error:
            raise RefitFailed(f"the module has lost a part that the program uses ({error}): export again") from error
        return found


def _read(path: Path, calling: Calling, device: torch.device) -> dict[str, Any]:
    """The tensors of a file that a program needs, read onto its device, and names of the others.

    Raises:
        RefitFailed: the file is no safetensors file.
        TRTStrippedError: the library that reads it is not installed.
    """
    if path.suffix != ".safetensors":
        raise RefitFailed(
            f"{path} is not a .safetensors file, and other formats may run code when they are read: load it yourself "
            "(torch.load(path, weights_only=True)) and give the state_dict"
        )
    try:
        import safetensors
    except ImportError as error:
        how = "pip install 'trt_stripped_backend[safetensors]'"
        raise TRTStrippedError(f"reading {path} needs safetensors: {how}") from error
    needed = {name for source in calling.sources for name in source.names}
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) if name in needed else None for name in names}
    except safetensors.SafetensorError as error:
        raise RefitFailed(f"{path} cannot be read as safetensors ({error}): copy or convert it again") from error
