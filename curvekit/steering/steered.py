"""A control at work: its parts opened for a model, and the logits of each next token of rows that grow."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from curvekit.errors import CurvekitError, pick
from curvekit.steering.attributes import AttributeModel
from curvekit.steering.control import Control
from curvekit.steering.mixing import Experts, Guidance
from curvekit.steering.pplm import Objective, Pplm, attribute_objective, bag_objective, bag_tokens
from curvekit.steering.reading import Reader
from curvekit.steering.vectors import SteeringVector, added

Logits = Generator[Tensor, Tensor, None]


def require_codes(model: PreTrainedModel, control: Control) -> None:
    """Return where the model was fine-tuned with these codes.

    Raises:
        CurvekitError: it was with none, or with others, of which the nearest are named.
    """
    known = getattr(model.config, "control_codes", None)
    if control.codes and not known:
        raise CurvekitError(
            f"codes are {list(control.codes)}, and this model was trained with none; train one with --codes, "
            "or give the words as preface"
        )
    for code in control.codes:
        pick(code, known or (), "code")


class Steered:
    """The parts of a control, opened for one model; what they name is checked now.

    Raises:
        CurvekitError: what a setting names cannot be opened or belongs to another model; see each part's room.
    """

    def __init__(self, control: Control, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        require_codes(model, control)
        self.control, self.model, self.tokenizer = control, model, tokenizer
        self.objectives: list[Objective] = []
        if control.bag:
            self.objectives.append(bag_objective(bag_tokens(tokenizer, control.bag)))
        if control.attribute is not None:
            attribute = AttributeModel.load(control.attribute, model)
            self.objectives.append(attribute_objective(attribute, control.label))
        if control.expert is not None:
            self._experts()
        self.vector = None if control.vector is None else SteeringVector.load(control.vector, model)

    def _experts(self) -> Experts:
        assert self.control.expert is not None
        return Experts(self.tokenizer, self.control.expert, self.control.antiexpert, self.control.expert_weight)

    def logits(self, ids: Tensor, mask: Tensor, bare: tuple[Tensor, Tensor] | None = None) -> Logits:
        """Yields the logits ``[rows, vocabulary]`` of the next token and is sent the tokens ``[rows]`` that were drawn.

        Args:
            ids, mask: the prompts ``[rows, time]``, padded on their left.
            bare: the same with the negative prompt in the place of what guides, for guidance.
        """
        control, model = self.control, self.model
        reader: Any = Reader(model)
        if control.gradients:
            reader = Pplm(model, control, self.objectives, control.attribute is not None)
        experts = self._experts() if control.expert is not None else None
        guidance = Guidance(model, control.guidance_scale, *bare) if control.guided and bare is not None else None
        new = ids
        while True:
            with added(model, self.vector, control.vector_scale):
                scores = reader.logits(new, mask)
                if experts is not None:
                    scores = experts(new, mask, scores)
                if guidance is not None:
                    scores = guidance(ids, scores)
            drawn = yield scores
            new = drawn[:, None]
            ids, mask = torch.cat([ids, new], dim=1), torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)

    def decoding(self, bare: tuple[Tensor, Tensor] | None) -> Any:
        """A loop of decoding for transformers' ``generate(custom_generate=...)``, which prepares what it draws with."""

        def loop(
            model: Any,
            input_ids: Tensor,
            logits_processor: Any,
            stopping_criteria: Any,
            generation_config: Any,
            **model_kwargs: Any,
        ) -> Tensor:
            mask = model_kwargs.get("attention_mask")  # `generate` leaves out one of all ones
            mask = torch.ones_like(input_ids) if mask is None else mask
            copies = 1 if bare is None else len(input_ids) // len(bare[0])
            own = None if bare is None else tuple(each.repeat_interleave(copies, 0) for each in bare)
            steps = self.logits(input_ids, mask, own)  # type: ignore[arg-type]
            scores = next(steps)
            going = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
            while True:
                scores = logits_processor(input_ids, scores)
                if generation_config.do_sample:
                    drawn = torch.multinomial(scores.softmax(-1), 1)[:, 0]
                else:
                    drawn = scores.argmax(-1)
                drawn = drawn.where(going, generation_config._pad_token_tensor)
                input_ids = torch.cat([input_ids, drawn[:, None]], dim=1)
                going = going & ~stopping_criteria(input_ids, None)
                if not going.any():
                    return input_ids
                scores = steps.send(drawn)

        return loop
