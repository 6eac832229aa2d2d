"""A model in training whose weights, gradients and optimiser lie in parts on several processes (FSDP2).

Every block is a unit, and what stands around the blocks, tied embeddings and the curve included, is one more: a unit's
weights are gathered when it computes and let go of after. What is saved is whole, as one process would save it, so that
another number of processes can go on.

Source: Zhao et al., PyTorch FSDP (2023), arXiv 2304.11277; ``torch.distributed.fsdp.fully_shard``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def shard(model: Any) -> None:
    """Deal out every parameter of a causal language model, in place, over all processes.

    The model keeps its class's methods; its parameters are DTensors from here on, and an optimiser is made of those.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (torch.distributed.get_world_size(),))
    base = model.base_model
    for block in getattr(base, base.blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    whole = [name for name, each in model.named_parameters() if not is_part(each)]
    if whole:  # it would be trained apart in every process, and nobody would be told
        raise RuntimeError(f"not sharded: {', '.join(whole)}")


def is_sharded(model: nn.Module) -> bool:
    """Whether a model's parameters are parts of whole ones."""
    return any(map(is_part, model.parameters()))


def is_part(value: Any) -> bool:
    """Whether a tensor is a part of a whole one."""
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def whole(value: Any) -> Any:
    """Nested dictionaries and lists with every part made whole; all processes must ask for it together."""
    if is_part(value):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(each) for each in value)
    return value


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, dealt out as ``like`` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def load_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put whole weights into a sharded model; of tied ones the state may have either name.

    Raises:
        KeyError: a weight is missing.
    """
    named: dict[int, list[str]] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    for name, each in parameters.items():
        named.setdefault(id(each), []).append(name)
    persistent = model.state_dict().keys()
    for names in named.values():
        there = [name for name in names if name in state]
        if not there and not persistent & set(names):
            continue  # a buffer that is not saved
        if not there:
            raise KeyError(names[0])
        target = parameters[names[0]]
        target.copy_(part_of(state[there[0]].to(target.dtype), target))


def unique(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with each tied weight under one name only."""
    seen: dict[int, str] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: each
        for name, each in state.items()
        if name not in parameters or seen.setdefault(id(parameters[name]), name) == name
    }


def optimizer_parts(optimizer: Any, state: Any) -> Any:
    """An optimiser's whole state, as one process saved it, with every tensor dealt out as its parameter is."""
    if "parts" in state:  # Muon for some parameters, AdamW for others
        return {"parts": [optimizer_parts(o, s) for o, s in zip(optimizer.parts, state["parts"], strict=True)]}
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    of = dict(zip(numbers, parameters, strict=True))
    dealt = {
        number: {k: part_of(v, of[number]) if isinstance(v, Tensor) else v for k, v in each.items()}
        for number, each in state["state"].items()
    }
    return {**state, "state": dealt}
