"""The laws of the role `attention`: masks, order, gradients, and equality with the built-in reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from detrkit.attention import Attention, AttentionOutput
from detrkit.errors import DetrkitError, ShapeError
from detrkit.registry import REGISTRY, Signature
from detrkit.testing.law import Draw, Make, Maker, concern, law
from detrkit.testing.tensors import check_close, check_finite, draw_normal, draw_order

REFERENCE = "matrix"
SIZES = ((8, 1), (8, 2), (8, 4), (16, 4), (24, 3), (16, 8))  # d_model and heads


class Case(NamedTuple):
    """What an attention reads; called with an attention, it gives the answer."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor

    def __call__(self, attention: Attention, need_weights: bool = False) -> AttentionOutput:
        """The attention's answer; a mask that hides nothing is left out."""
        mask = self.mask if self.mask.any() else None
        return attention(self.query, self.key, self.value, mask=mask, need_weights=need_weights)

    def map(self, change: Callable[[Tensor], Tensor]) -> Case:
        """The same change of the three tensors."""
        return Case(change(self.query), change(self.key), change(self.value), self.mask)

    def of(self, images: list[int]) -> Case:
        """Some images of the batch."""
        return Case(*(part[images] for part in self))

    def hidden(self, filling: float) -> Case:
        """Keys and values replaced where they are masked."""
        return self._replace(
            **{name: getattr(self, name).masked_fill(self.mask[..., None], filling) for name in ("key", "value")}
        )


@law("attention")
def masked_keys_have_no_influence(make: Make, draw: Draw) -> None:
    """Keys and values under the mask may change, even to NaN: output and weights stay, and theirs are zero."""
    attention, case = draw_case(make, draw)
    for need_weights in (False, True):
        expected = case(attention, need_weights)
        for filling in (draw(-100, 100), float("nan"), float("inf")):
            check_close(case.hidden(filling)(attention, need_weights), expected, f"with {filling} under the mask")
    if expected.weights is not None and expected.weights.shape[-1] == case.mask.shape[-1]:
        assert (expected.weights.movedim(-1, 1)[case.mask] == 0).all(), "a masked key has a weight"


@law("attention")
def masked_keys_have_no_influence_on_gradients(make: Make, draw: Draw) -> None:
    """Keys and values under the mask change no gradient, not even as NaN, and get none themselves."""
    attention, case = draw_case(make, draw)
    for need_weights in (False, True):
        expected = gradients(attention, case, need_weights)
        for name in ("key", "value"):
            assert (expected[name][case.mask] == 0).all(), f"a masked {name} gets a gradient"
        for filling in (draw(-100, 100), float("nan")):
            found = gradients(attention, case.hidden(filling), need_weights)
            check_close(found, expected, f"with {filling} under the mask")


@law("attention")
def blind_image_gives_zeros(make: Make, draw: Draw) -> None:
    """An image whose keys are all masked gives exactly zero, finite gradients, and does not disturb its neighbours."""
    attention, case = draw_case(make, draw)
    blind = draw(0, len(case.query) - 1)
    case.mask[blind] = True
    others = [image for image in range(len(case.query)) if image != blind]
    for need_weights in (False, True):
        asked = f"with {need_weights=}"
        found = case(attention, need_weights)
        assert (found.output[blind] == 0).all(), f"the output of a blind image is not zero {asked}"
        if found.weights is not None:
            assert (found.weights[blind] == 0).all(), "the weights of a blind image are not zero"
            assert found.weights.isfinite().all(), "weights beside a blind image are not finite"
        check_finite(gradients(attention, case, need_weights), f"among the gradients beside a blind image {asked}")
        if others:
            check_close(found.output[others], case.of(others)(attention).output, f"beside a blind image {asked}")


@law("attention")
def asking_for_weights_changes_nothing(make: Make, draw: Draw) -> None:
    """Output and gradients are the same whether the weights are asked for or not; unasked, none are given."""
    attention, case = draw_case(make, draw)
    plain = case(attention)
    assert plain.weights is None, "weights are given though nobody asked"
    check_close(case(attention, True).output, plain.output, "when the weights are asked for")
    check_close(gradients(attention, case, True), gradients(attention, case), "when the weights are asked for")


@law("attention")
def weights_are_a_distribution(make: Make, draw: Draw) -> None:
    """The weights are [B, H, Q, K], none is negative, and those of a query sum to one, also while dropout acts."""
    concern_dense(make)
    attention, case = draw_case(make, draw)
    dropping = make(d_model=case.query.shape[2], heads=heads_of(attention, case), dropout=0.5).double().train()
    for asked in (attention, dropping):
        weights = case(asked, True).weights
        assert weights is not None, "no weights are given though they were asked for"
        shape = (len(case.query), weights.shape[1], case.query.shape[1], case.key.shape[1])
        assert weights.shape == shape, f"weights have shape {tuple(weights.shape)}, not {shape}"
        assert (weights >= 0).all(), "a weight is negative"
        check_close(weights.sum(-1), torch.ones_like(weights[..., 0]), "when summed over the keys")


@law("attention")
def order_of_keys_does_not_matter(make: Make, draw: Draw) -> None:
    """Permuting the keys with their values and mask changes nothing."""
    concern_dense(make)
    attention, case = draw_case(make, draw)
    order = draw_order(draw, case.key.shape[1])
    shuffled = Case(case.query, case.key[:, order], case.value[:, order], case.mask[:, order])
    check_close(shuffled(attention).output, case(attention).output, "in another order of the keys")


@law("attention")
def queries_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """Permuting the queries permutes the outputs, and a query alone reads the same."""
    concern_dense(make)
    attention, case = draw_case(make, draw)
    together = case(attention).output
    order = draw_order(draw, case.query.shape[1])
    shuffled = case._replace(query=case.query[:, order])
    check_close(shuffled(attention).output, together[:, order], "in another order of the queries")
    alone = case._replace(query=case.query[:, :1])
    check_close(alone(attention).output, together[:, :1], "for a query alone")


@law("attention")
def images_do_not_influence_each_other(make: Make, draw: Draw) -> None:
    """A batch gives what its images give one by one."""
    attention, case = draw_case(make, draw)
    alone = [case.of([image])(attention).output for image in range(len(case.query))]
    check_close(torch.cat(alone), case(attention).output, "image by image")


@law("attention")
def appended_padding_changes_nothing(make: Make, draw: Draw) -> None:
    """Masked keys appended to every image change neither output nor gradients."""
    attention, case = draw_case(make, draw)
    (images, length, width), more = case.key.shape, draw(1, 5)
    key, value = (torch.cat([x, draw_normal(draw, images, more, width)], 1) for x in (case.key, case.value))
    mask = torch.cat([case.mask, torch.ones(images, more, dtype=torch.bool)], 1)
    padded = Case(case.query, key, value, mask)
    check_close(padded(attention).output, case(attention).output, "with padding appended")
    found = gradients(attention, padded)
    found |= {name: found[name][:, :length] for name in ("key", "value")}
    check_close(found, gradients(attention, case), "with padding appended")


@law("attention")
def equal_values_are_read_as_they_are(make: Make, draw: Draw) -> None:
    """Where all values of an image are one and the same, every query reads it, whatever the keys."""
    concern_dense(make)
    attention, case = draw_case(make, draw)
    one = case.value[:, :1]
    found = case._replace(value=one.expand_as(case.value))(attention).output
    check_close(found, read_alone(attention, case, one).expand_as(found), "when all values are the same")


@law("attention")
def single_visible_key_is_read(make: Make, draw: Draw) -> None:
    """Where one key is visible, every query reads its value, whatever query and keys are."""
    concern_dense(make)
    attention, case = draw_case(make, draw)
    seen = draw(0, case.key.shape[1] - 1)
    mask = torch.ones_like(case.mask)
    mask[:, seen] = False
    found = case._replace(mask=mask)(attention).output
    only = case.value[:, seen : seen + 1]
    check_close(found, read_alone(attention, case, only).expand_as(found), "when one key is visible")


@law("attention")
def shift_of_all_keys_changes_nothing(make: Make, draw: Draw) -> None:
    """One vector added to every key adds a constant to the scores of each query, which the softmax does not see."""
    concern_dense(make)
    attention, case = draw_case(make, draw)
    shifted = case._replace(key=case.key + draw_normal(draw, 1, 1, case.key.shape[2]))
    check_close(shifted(attention).output, case(attention).output, "with all keys shifted", rtol=1e-10)


@law("attention")
def gradients_are_those_of_the_function(make: Make, draw: Draw) -> None:
    """Gradients of inputs and parameters equal numerical differences."""
    attention, case = draw_case(make, draw, longest=3)
    parameters = dict(attention.named_parameters())

    def output(query: Tensor, key: Tensor, value: Tensor, *values: Tensor) -> Tensor:
        state = dict(zip(parameters, values, strict=True))
        return functional_call(attention, state, (query, key, value), {"mask": case.mask}).output

    inputs = [x.detach().requires_grad_() for x in (*case[:3], *parameters.values())]
    right = torch.autograd.gradcheck(output, inputs, fast_mode=True, raise_exception=False)
    assert right, "torch.autograd.gradcheck: the gradients are not those of the function"


@law("attention")
def memory_layout_does_not_matter(make: Make, draw: Draw) -> None:
    """Tensors that are not contiguous, or one and the same object, give what their copies give."""
    attention, case = draw_case(make, draw)
    strided = case.map(lambda tokens: tokens.transpose(0, 2).contiguous().transpose(0, 2))
    check_close(strided(attention), case(attention), "for tensors that are not contiguous")
    check_close(gradients(attention, strided), gradients(attention, case), "for tensors that are not contiguous")
    same = Case(case.key, case.key, case.key, case.mask)
    expected = same.map(torch.clone)(attention).output
    with torch.no_grad():  # where PyTorch's own module takes another path
        check_close(same(attention.eval()).output, expected, "for one tensor as query, key and value")


@law("attention")
def bad_masks_are_refused(make: Make, draw: Draw) -> None:
    """A mask that is not bool, or not of the shape [B, K], raises ShapeError."""
    attention, case = draw_case(make, draw)
    mask, (images, keys) = case.mask, case.mask.shape
    refused = [mask.to(dtype) for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8)]
    refused += [mask[0], mask[:, :, None], mask[:, None, :], mask[:, : keys - 1], torch.cat([mask, mask])]
    refused += [torch.cat([mask, mask], 1), mask.new_zeros(images, case.query.shape[1], keys), mask.new_zeros(())]
    refused += [mask.new_zeros(1, keys)] if images > 1 else []
    for wrong in refused:
        try:
            attention(*case[:3], mask=wrong)
        except ShapeError:
            continue
        raise AssertionError(
            f"a mask of {wrong.dtype} and shape {tuple(wrong.shape)} was not refused by ShapeError; "
            f"the keys have shape {tuple(case.key.shape)}"
        )


@law("attention")
def heads_must_divide_the_width(make: Make, draw: Draw) -> None:
    """A number of heads that does not divide d_model is refused at construction, naming both."""
    concern("heads" in Signature.of(make.component).settings, "has no setting 'heads'")
    concern("heads" not in getattr(make, "settings", {}), "checked with given heads")
    heads, message = draw(2, 12), ""
    try:
        make(d_model=13, heads=heads)
    except DetrkitError as error:
        message = str(error)
    assert message, f"d_model=13 was accepted with heads={heads}"
    missing = [part for part in ("d_model", "13", "heads", str(heads)) if part not in message]
    assert not missing, f"the error does not name {' and '.join(missing)}: {message}"


@law("attention")
def training_without_dropout_is_evaluation(make: Make, draw: Draw) -> None:
    """Without dropout, training and evaluation give the same."""
    attention, case = draw_case(make, draw)
    for need_weights in (False, True):
        expected = case(attention.eval(), need_weights)
        check_close(case(attention.train(), need_weights), expected, "in training without dropout")


@law("attention")
def dropout_acts_in_training_only(make: Make, draw: Draw) -> None:
    """With dropout, training differs from evaluation, and evaluation is what it is without."""
    concern("dropout" in Signature.of(make.component).annotations, "has no dropout")
    attention, case = draw_case(make, draw)
    dropping = make(d_model=case.query.shape[2], heads=heads_of(attention, case), dropout=0.5).double()
    dropping.load_state_dict(attention.state_dict())
    expected = case(attention).output
    for need_weights in (False, True):
        check_close(case(dropping.eval(), need_weights).output, expected, "in evaluation with dropout")
        torch.manual_seed(draw(0, 2**31 - 1))
        dropped = torch.stack([case(dropping.train(), need_weights).output for _ in range(10)])
        assert not torch.allclose(dropped, expected), f"dropout drops nothing in training with {need_weights=}"


@law("attention")
def half_precision_is_finite(make: Make, draw: Draw) -> None:
    """In bfloat16 and float16 the output is near that of float64, and finite for large scores."""
    attention, case = draw_case(make, draw)
    for dtype, large in ((torch.bfloat16, 100), (torch.float16, 20)):
        attention.to(dtype)
        half = case.map(lambda tokens, dtype=dtype: tokens.to(dtype))  # type: ignore[misc]
        found = half(attention).output
        assert found.dtype == dtype, f"{dtype} tokens give {found.dtype}"
        larger = half._replace(query=half.query * large, key=half.key * large)
        for need_weights in (False, True):
            output, weights = larger(attention, need_weights)
            check_finite({"output": output, "weights": output if weights is None else weights}, f"in {dtype}")
        expected = half.map(torch.Tensor.double)(attention.double()).output
        check_close(found, expected, f"in {dtype}", rtol=0.05)


@law("attention")
def state_dict_carries_everything(make: Make, draw: Draw) -> None:
    """Another instance that has loaded the state dict gives the same, to the bit, and saves the same again."""
    attention, case = draw_case(make, draw)
    twin = make(d_model=case.query.shape[2], heads=heads_of(attention, case), dropout=0.0).double()
    twin.load_state_dict(attention.state_dict())
    check_close(case(twin), case(attention), "in a copy by state dict", rtol=0)
    check_close(twin.state_dict(), attention.state_dict(), "when saved again", rtol=0)


@law("attention")
def equals_the_reference(make: Make, draw: Draw) -> None:
    """Outputs, weights and all gradients equal those of `matrix` with the same weights, in float32 and float64."""
    concern_dense(make)
    attention, case = draw_case(make, draw)
    if draw(0, 1):
        case.mask[draw(0, len(case.mask) - 1)] = True
    reference = Maker(REGISTRY.get("attention", REFERENCE))(
        d_model=case.query.shape[2], heads=heads_of(attention, case)
    ).double()
    reference.load_state_dict(attention.state_dict())
    check_equal(attention, reference, case)
    check_equal(attention.float(), reference.float(), case.map(torch.Tensor.float))


def check_equal(attention: Attention, other: Attention, case: Case) -> None:
    """Require the same outputs, weights and gradients of two attentions with the same weights."""
    for need_weights in (False, True):
        check_close(case(attention, need_weights), case(other, need_weights), "from the reference")
        found, expected = (canonical_gradients(x, case, need_weights) for x in (attention, other))
        check_close(found, expected, "from the reference's gradient")


def concern_dense(make: Make) -> None:
    """Leave a law that presumes the softmax over all keys."""
    dense = REGISTRY.get("attention", REFERENCE).function  # type: ignore[attr-defined]
    own = make.component.function  # type: ignore[attr-defined]
    concern(own == dense, f"computes {own!r}, not {dense!r}")


def draw_case(make: Make, draw: Draw, *, longest: int = 7) -> tuple[Attention, Case]:
    """An attention in float64 with random parameters, biases too, and what it reads; each image has a visible key."""
    width, heads = draw_size(make, draw)
    torch.manual_seed(draw(0, 2**31 - 1))
    attention = make(d_model=width, heads=heads, dropout=0.0).double()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    images, queries, keys = draw(1, 3), draw(1, 5), draw(1, longest)
    query, key, value = (draw_normal(draw, images, length, width) for length in (queries, keys, keys))
    mask = draw_normal(draw, images, keys) < draw(-2, 2)
    mask[range(images), draw_order(draw, keys).repeat(images)[:images]] = False
    return attention, Case(query, key, value, mask)


def draw_size(make: Make, draw: Draw) -> tuple[int, int]:
    """Width and number of heads; a width that fits where the user has set the heads."""
    heads = getattr(make, "settings", {}).get("heads")
    return SIZES[draw(0, len(SIZES) - 1)] if heads is None else (4 * heads * draw(1, 2), heads)


def gradients(attention: Attention, case: Case, need_weights: bool = False) -> dict[str, Tensor]:
    """Gradients of a fixed mixture of the outputs, by input and parameter name; missing ones are refused."""
    case = case.map(lambda tokens: tokens.detach().requires_grad_())
    attention.zero_grad()
    output = case(attention, need_weights).output
    mixture = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * mixture).sum().backward()
    named = {**dict(zip(Case._fields, case[:3], strict=False)), **dict(attention.named_parameters())}
    found = {name: tensor.grad for name, tensor in named.items()}
    missing = [name for name, gradient in found.items() if gradient is None]
    assert not missing, f"no gradient reaches {', '.join(missing)}"
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def canonical_gradients(attention: Attention, case: Case, need_weights: bool) -> dict[str, Tensor]:
    """`gradients`, those of the parameters in the layout of the state dict."""
    found = gradients(attention, case, need_weights)
    before = {name: parameter.data for name, parameter in attention.named_parameters()}
    for name, parameter in attention.named_parameters():
        parameter.data = found.pop(name)
    found |= {name: entry.clone() for name, entry in attention.state_dict().items()}
    for name, parameter in attention.named_parameters():
        parameter.data = before[name]
    return found


def read_alone(attention: Attention, case: Case, value: Tensor) -> Tensor:
    """What the first query reads from one single key."""
    return attention(case.query[:, :1], case.key[:, :1], value).output


def heads_of(attention: Attention, case: Case) -> int:
    """Number of heads, seen from the weights."""
    weights = case(attention, True).weights
    return 1 if weights is None else weights.shape[1]
